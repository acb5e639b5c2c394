//! `porin broker`: the embedded broker as a process of its own.
//!
//! For the demo, `porin up` and tests: MQTT 5 on loopback, QoS 0 and 1, retained publishes and wills. No sessions beyond a
//! connection, no authentication, nothing on disk. `docs/decisions/0021` says why it is our own.
//! It runs as a child: [`Broker::start`] picks a free port, waits until it accepts, and kills it when dropped.

mod connection;
mod router;

use std::{
    cell::RefCell,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use self::router::Router;

/// Time for the child to accept connections.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the broker until the process is killed, or with `while_stdin` until its standard input is closed: that happens
/// however the process that started it ends.
pub(crate) fn run(port: u16, while_stdin: bool) -> anyhow::Result<()> {
    if while_stdin {
        std::thread::spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            std::process::exit(0);
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .with_context(|| format!("port {port} of loopback"))?;
        let router = Rc::new(RefCell::new(Router::default()));
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::task::spawn_local(connection::serve(stream, router.clone()))),
                // Out of file descriptors: those that are open go on.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    })
}

/// An address of loopback that is free now.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A running broker; killed when dropped.
pub(crate) struct Broker {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Broker {
    /// Starts this very program as a broker on a free port of loopback.
    pub(crate) fn start() -> anyhow::Result<Self> {
        Self::start_at(free_address()?)
    }

    /// Starts it at this address.
    pub(crate) fn start_at(address: SocketAddr) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["broker", "--while-stdin", "--port", &address.port().to_string()])
            // Held as long as we live: see `run`.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A group of its own: a ctrl-C is for us, and the broker is still to take what waits.
            .process_group(0)
            .spawn()
            .context("starting the embedded broker")?;
        let start = Instant::now();
        while TcpStream::connect_timeout(&address, PATIENCE).is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("the embedded broker ended at once: {status}");
            }
            if start.elapsed() > PATIENCE {
                bail!("the embedded broker does not accept connections at {address}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { child, address })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It holds nothing that is to be kept.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! `porin broker`: the embedded broker as a process of its own.
//!
//! rumqttd cannot be stopped in process, only logs a failed bind and does not tell which port 0 became. So it runs as
//! a child: [`Broker::start`] picks a free port, waits until it accepts, and kills it when dropped.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rumqttd::{ConnectionSettings, RouterConfig, ServerSettings};

/// Time for the child to accept connections.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the broker until the process is killed, or with `while_stdin` until its standard input is closed: that happens
/// however whoever started it ends.
pub(crate) fn run(port: u16, while_stdin: bool) -> anyhow::Result<()> {
    if while_stdin {
        std::thread::spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            std::process::exit(0);
        });
    }
    let connections = ConnectionSettings {
        connection_timeout_ms: 10_000,
        max_payload_size: 262_144,
        max_inflight_count: 500,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings {
        name: "v5".into(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    let router = RouterConfig {
        max_connections: 100,
        max_outgoing_packet_count: 200,
        // Of each topic, in memory, whether anybody subscribes or not: `porin up` may run for days.
        max_segment_size: 1 << 20,
        max_segment_count: 10,
        ..RouterConfig::default()
    };
    let v5 = Some([("v5".to_owned(), server)].into());
    let config = rumqttd::Config { id: 0, router, v5, ..rumqttd::Config::default() };
    rumqttd::Broker::new(config).start().context("the embedded broker")
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

//! Three nodes of nats-server as one MQTT broker: Debian's package, JetStream on disk.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{Process, free_port, wait_until};

/// The cluster.
#[derive(Debug)]
pub struct Nats {
    nodes: Vec<Node>,
    _folder: TempDir,
}

/// One of its nodes.
#[derive(Debug)]
pub struct Node {
    /// Where it speaks MQTT 3.1.1.
    pub port: u16,
    monitor: u16,
    process: Process,
}

impl Nats {
    /// Starts three nodes and waits until each of them takes and stores publishes.
    ///
    /// # Panics
    /// If they do not start.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let routes = [(); 3].map(|()| free_port());
        let all = routes.map(|port| format!("\"nats://127.0.0.1:{port}\"")).join(", ");
        let node = |(index, route): (usize, &u16)| {
            let (port, monitor, client) = (free_port(), free_port(), free_port());
            let place = folder.path().join(index.to_string());
            fs::create_dir(&place).expect("a folder");
            // Without the short pings 2.9.10 lets publishes lie between two nodes until something else passes.
            let text = format!(
                "server_name: node{index}\nhost: 127.0.0.1\nport: {client}\nhttp: \"127.0.0.1:{monitor}\"\nping_interval: \"5ms\"\nping_max: 5000\n\
                 jetstream {{ store_dir: \"{}\", max_file: 1GB }}\n\
                 cluster {{ name: porin, listen: \"127.0.0.1:{route}\", routes: [{all}] }}\n\
                 mqtt {{ host: 127.0.0.1, port: {port}, ack_wait: \"5s\" }}\n",
                place.display()
            );
            let file = place.join("nats.conf");
            fs::write(&file, text).expect("written");
            let mut command = Command::new("nats-server");
            let child = command.arg("-c").arg(file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
            let child = child.expect("nats-server; `make test` installs it");
            Node { port, monitor, process: Process::of(child) }
        };
        let nodes: Vec<_> = routes.iter().enumerate().map(node).collect();
        for node in &nodes {
            wait_until("the node knows its cluster", || {
                get(node.monitor, "/healthz").contains("\"ok\"") && get(node.monitor, "/jsz").contains("\"leader\"")
            });
        }
        // The first publish at each node takes seconds, or is refused; all later ones do not.
        for node in &nodes {
            wait_until("the node takes a publish", || {
                Command::new("mosquitto_pub")
                    .args(["-V", "mqttv311", "-q", "1", "-p", &node.port.to_string(), "-t", "warm", "-m", "up"])
                    .stderr(Stdio::null())
                    .status()
                    .is_ok_and(|status| status.success())
            });
        }
        Self { nodes, _folder: folder }
    }

    /// The nodes' ports for MQTT.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    /// A session that the cluster keeps on all its nodes.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn make_session(&self, node: usize, filter: &str, id: &str) {
        let port = self.nodes[node].port.to_string();
        let args = ["-V", "mqttv311", "-p", &port, "-q", "1", "-i", id, "-c", "-t", filter, "-E", "-W", "20"];
        wait_until("the session is there", || {
            Command::new("mosquitto_sub").args(args).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        });
    }

    /// Kills a node.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].process.kill();
    }
}

/// What a node's monitor says; nothing while it does not answer.
fn get(port: u16, path: &str) -> String {
    let answer = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    answer().unwrap_or_default()
}

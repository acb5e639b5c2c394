//! Source `modbus`: registers of devices behind a TCP connection or on a serial line. What they mean is `core::modbus`'.
//!
//! One request is under way at a time, as a line wants it. A slave that does not answer costs the others on its line one timeout each
//! time it is asked, which is less and less often; sources are independent of each other. After a failure the line is opened anew, so
//! that an answer that comes too late is not taken for the next one. A connection that the device has closed since the last answer, as
//! many do when they are asked seldom, is no failure: it is opened again and asked once more.

use std::{
    fmt::Display,
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context as Task, Poll},
    time::Duration,
};

use porin_core::{
    config::{ModbusLine, ModbusSource as Config, Parity, Slave},
    modbus::{Request, Table, requests},
    packet::Quality,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_modbus::{
    client::{Context, Reader, rtu, tcp},
    slave::SlaveContext,
};
use tokio_serial::{ClearBuffer, SerialPort, SerialPortBuilderExt, SerialStream};

use super::{
    Outlet,
    polled::{Answer, Part, Polled, Sample},
};
use crate::machine::wall_clock;

/// The source with its counters.
pub(crate) struct Modbus {
    config: Config,
    polled: Polled,
}

impl Modbus {
    pub(crate) fn new(config: Config) -> Self {
        let place = match &config.line {
            ModbusLine::Tcp(address) => address,
            ModbusLine::Rtu(device, ..) => device,
        };
        let parts = config.slaves.iter().map(|slave| Part {
            name: format!("slave {} at {place}", slave.unit),
            every_us: slave.every_us,
            streams: slave.registers.iter().map(|register| register.stream.clone()).collect(),
        });
        Self { polled: Polled::new(parts.collect()), config }
    }

    /// Runs for ever.
    pub(crate) async fn run(&mut self, outlet: &mut Outlet) -> anyhow::Result<()> {
        let mut slaves = Slaves::new(&self.config);
        self.polled
            .run(outlet, async |part| {
                let answer = slaves.ask(part).await;
                Ok((wall_clock(), answer))
            })
            .await
    }
}

/// The slaves, with what is asked of each.
struct Slaves<'a> {
    slaves: &'a [Slave],
    requests: Vec<Vec<Request>>,
    line: Connection<'a>,
}

impl<'a> Slaves<'a> {
    fn new(config: &'a Config) -> Self {
        let requests = config.slaves.iter().map(|slave| requests(&slave.registers)).collect();
        let patience = Duration::from_micros(config.timeout_us);
        Self { slaves: &config.slaves, requests, line: Connection { place: &config.line, patience, context: None } }
    }

    async fn ask(&mut self, part: usize) -> Answer {
        let slave = &self.slaves[part];
        let mut samples = vec![Sample { value: f64::NAN, quality: Quality::BAD }; slave.registers.len()];
        for request in &self.requests[part] {
            let words = self.line.ask(slave.unit, request).await?;
            fill(slave, request, &words, &mut samples);
        }
        Ok(Some(samples))
    }
}

/// A serial line or a connection, opened when it is first needed.
struct Connection<'a> {
    place: &'a ModbusLine,
    patience: Duration,
    context: Option<Context>,
}

/// Why there is no answer.
enum Failure {
    /// The other end has closed the connection.
    Closed(String),
    Other(String),
}

impl Connection<'_> {
    async fn ask(&mut self, unit: u8, request: &Request) -> Result<Vec<u16>, String> {
        let was_open = self.context.is_some();
        let mut answer = self.ask_once(unit, request).await;
        if was_open && matches!(answer, Err(Failure::Closed(_))) {
            self.context = None;
            answer = self.ask_once(unit, request).await;
        }
        answer.map_err(|(Failure::Closed(what) | Failure::Other(what))| {
            self.context = None;
            what
        })
    }

    async fn ask_once(&mut self, unit: u8, request: &Request) -> Result<Vec<u16>, Failure> {
        let patience = self.patience;
        let context = match &mut self.context {
            Some(context) => context,
            closed => closed.insert(open(self.place, patience).await.map_err(Failure::Other)?),
        };
        context.set_slave(tokio_modbus::Slave(unit));
        let answer = timeout(patience, read(context, request, self.place)).await;
        answer.unwrap_or_else(|_| Err(Failure::Other(said(request, &format!("no answer within {patience:?}")))))
    }
}

/// Puts what was answered where it belongs.
fn fill(slave: &Slave, request: &Request, words: &[u16], samples: &mut [Sample]) {
    for index in &request.registers {
        let register = &slave.registers[*index];
        let start = usize::from(register.address - request.address);
        // Not a number: some devices say so that they have none.
        let value = words.get(start..).and_then(|words| register.value(words));
        if let Some(value) = value.filter(|value| value.is_finite()) {
            samples[*index] = Sample { value, quality: Quality::GOOD };
        }
    }
}

fn said(request: &Request, what: &dyn Display) -> String {
    let last = u32::from(request.address) + u32::from(request.count) - 1;
    format!("{} {} to {last}: {what}", request.table.name(), request.address)
}

/// Words, or bits as words.
async fn read(context: &mut Context, request: &Request, place: &ModbusLine) -> Result<Vec<u16>, Failure> {
    let Request { table, address, count, .. } = *request;
    let bits = |bits: Vec<bool>| bits.into_iter().map(u16::from).collect();
    let answer = match table {
        Table::Holding => context.read_holding_registers(address, count).await,
        Table::Input => context.read_input_registers(address, count).await,
        Table::Coil => context.read_coils(address, count).await.map(|answer| answer.map(bits)),
        Table::Discrete => context.read_discrete_inputs(address, count).await.map(|answer| answer.map(bits)),
    };
    let said = |what: &dyn Display| said(request, what);
    match answer {
        // More may be a late answer to another question of the same slave.
        Ok(Ok(words)) if words.len() == usize::from(count) => Ok(words),
        Ok(Ok(words)) => Err(Failure::Other(said(&format!("{} instead of {count} came", words.len())))),
        Ok(Err(exception)) => Err(Failure::Other(said(&format!("the slave refuses it: {exception}")))),
        // The library has no error of its own for it, only what the system said last, about whatever it was.
        Err(error) => Err(match (place, &error) {
            (ModbusLine::Tcp(_), tokio_modbus::Error::Transport(error)) if error.kind() != ErrorKind::InvalidData => {
                Failure::Closed(said(&"the device has closed the connection"))
            }
            (ModbusLine::Tcp(_) | ModbusLine::Rtu(..), error) => Failure::Other(said(error)),
        }),
    }
}

async fn open(line: &ModbusLine, patience: Duration) -> Result<Context, String> {
    match line {
        ModbusLine::Tcp(address) => {
            let connected = timeout(patience, TcpStream::connect(address)).await;
            let connected = connected.map_err(|_| format!("cannot connect to {address} within {patience:?}"))?;
            let stream = connected.map_err(|error| format!("cannot connect to {address}: {error}"))?;
            // A request is one small packet, and the answer is waited for.
            let _ = stream.set_nodelay(true);
            Ok(tcp::attach(stream))
        }
        ModbusLine::Rtu(device, baud, parity) => {
            let parity = match parity {
                Parity::None => tokio_serial::Parity::None,
                Parity::Even => tokio_serial::Parity::Even,
                Parity::Odd => tokio_serial::Parity::Odd,
            };
            let opened = tokio_serial::new(device, *baud).parity(parity).open_native_async();
            Ok(rtu::attach(Undrained(opened.map_err(|error| format!("cannot open {device}: {error}"))?)))
        }
    }
}

/// A serial line that is not waited for until all bytes are on the wire. `tcdrain` would hold up the thread of all sources for that long, or,
/// with an adapter that takes nothing, for ever; the answer is waited for anyway, with a timeout.
#[derive(Debug)]
struct Undrained(SerialStream);

impl Drop for Undrained {
    fn drop(&mut self) {
        // Closing would wait for them too.
        let _ = self.0.clear(ClearBuffer::All);
    }
}

impl AsyncRead for Undrained {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Task<'_>, bytes: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(task, bytes)
    }
}

impl AsyncWrite for Undrained {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(task, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Task<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Task<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

//! Source `modbus`: registers of devices behind a TCP connection or on a serial line. What they mean is `core::modbus`'.
//!
//! One request is under way at a time, as a line wants it. A slave that does not answer costs the others on its line one timeout each
//! time it is asked, which is less and less often; sources are independent of each other. After a failure the line is opened anew, so
//! that an answer that comes too late is not taken for the next one.

use std::time::Duration;

use porin_core::{
    config::{ModbusLine, ModbusSource as Config, Parity, Slave},
    modbus::{Request, Table, requests},
    packet::Quality,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_modbus::{
    client::{Context, Reader, rtu, tcp},
    slave::SlaveContext,
};
use tokio_serial::SerialPortBuilderExt;

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
        let mut line = Line::new(&self.config);
        self.polled
            .run(outlet, async |part| {
                let answer = line.ask(part).await;
                Ok((wall_clock(), answer))
            })
            .await
    }
}

/// A line with its slaves.
struct Line<'a> {
    config: &'a Config,
    patience: Duration,
    requests: Vec<Vec<Request>>,
    context: Option<Context>,
}

impl<'a> Line<'a> {
    fn new(config: &'a Config) -> Self {
        let requests = config.slaves.iter().map(|slave| requests(&slave.registers)).collect();
        Self { config, patience: Duration::from_micros(config.timeout_us), requests, context: None }
    }

    async fn ask(&mut self, part: usize) -> Answer {
        let answer = self.try_ask(part).await;
        if answer.is_err() {
            self.context = None;
        }
        answer
    }

    async fn try_ask(&mut self, part: usize) -> Answer {
        let slave = &self.config.slaves[part];
        let patience = self.patience;
        let context = match &mut self.context {
            Some(context) => context,
            closed => closed.insert(open(&self.config.line, patience).await?),
        };
        context.set_slave(tokio_modbus::Slave(slave.unit));
        let mut samples = vec![Sample { value: f64::NAN, quality: Quality::BAD }; slave.registers.len()];
        for request in &self.requests[part] {
            let asked = timeout(patience, read(context, request)).await;
            let words = asked.map_err(|_| format!("{}: no answer within {patience:?}", said(request)))??;
            fill(slave, request, &words, &mut samples);
        }
        Ok(Some(samples))
    }
}

/// Puts what was answered where it belongs.
fn fill(slave: &Slave, request: &Request, words: &[u16], samples: &mut [Sample]) {
    for index in &request.registers {
        let register = &slave.registers[*index];
        let start = usize::from(register.address - request.address);
        if let Some(value) = words.get(start..).and_then(|words| register.value(words)) {
            samples[*index] = Sample { value, quality: Quality::GOOD };
        }
    }
}

fn said(request: &Request) -> String {
    let last = u32::from(request.address) + u32::from(request.count) - 1;
    format!("{} {} to {last}", request.table.name(), request.address)
}

/// Words, or bits as words.
async fn read(context: &mut Context, request: &Request) -> Result<Vec<u16>, String> {
    let Request { table, address, count, .. } = *request;
    let bits = |bits: Vec<bool>| bits.into_iter().map(u16::from).collect();
    let answer = match table {
        Table::Holding => context.read_holding_registers(address, count).await,
        Table::Input => context.read_input_registers(address, count).await,
        Table::Coil => context.read_coils(address, count).await.map(|answer| answer.map(bits)),
        Table::Discrete => context.read_discrete_inputs(address, count).await.map(|answer| answer.map(bits)),
    };
    match answer {
        Ok(Ok(words)) if words.len() >= usize::from(count) => Ok(words),
        Ok(Ok(words)) => Err(format!("{}: {} instead of {count} came", said(request), words.len())),
        Ok(Err(exception)) => Err(format!("{}: the slave refuses it: {exception}", said(request))),
        Err(error) => Err(format!("{}: {error}", said(request))),
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
            Ok(rtu::attach(opened.map_err(|error| format!("cannot open {device}: {error}"))?))
        }
    }
}

//! Sources of lines and frames: datagrams, a file that grows, what a command prints, a serial line. Where one ends is `core::framing`'s,
//! what it means `core::lines`'.
//!
//! A line that means nothing is counted and told, never fatal. The time of a packet is when its line was there.

use std::{
    collections::HashMap,
    fmt::Display,
    fs::File,
    io::{ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use porin_core::{
    config::{LinesFrom, LinesSource as Config, SerialLine},
    framing::{Framer, Framing},
    ids::StreamId,
    lines::Lines as Meaning,
    packet::{Message, PacketKind, Quality, Reading},
    status::InputStatus,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::UdpSocket,
    process::Command,
    time::timeout,
};
use tokio_serial::SerialPortBuilderExt;
use tracing::warn;

use super::{BATCH, Outlet, regular_file};
use crate::{files::ends_within_a_line, inbox::FromSource, machine::wall_clock};

/// Streams that lines of one source may name. Noise on a serial line would otherwise fill the memory.
const MAX_STREAMS: usize = 10_000;

/// Bytes of a line that are shown.
const SHOWN: usize = 64;

/// A line or frame that has not ended is nothing strange before it has so many bytes.
const FEW_BYTES: u64 = 64;

/// Between two looks at a file that has not grown.
const LOOK: Duration = Duration::from_millis(250);

/// Bytes that are read at a time, and of a datagram at most.
const CHUNK: usize = 65_536;

/// A counted frame whose bytes stop coming for so long has lost some: the next ones begin another.
const PAUSE: Duration = Duration::from_secs(1);

/// A serial line that says something so soon after it was opened was in the middle of a line.
const QUIET: Duration = Duration::from_millis(100);

/// A command that has closed its output has so long to end.
const LAST_BREATH: Duration = Duration::from_secs(5);

/// The source with what outlives its failures.
pub(crate) struct Lines {
    config: Config,
    streams: HashMap<String, u32>,
    readings: Vec<Reading>,
    messages: Vec<Message>,
    followed: Followed,
    input: InputStatus,
    /// The beginning of what was read last.
    latest: Vec<u8>,
    /// What was told of it.
    told: InputStatus,
}

/// A file that is followed.
struct Followed {
    next: Next,
    framer: Framer,
}

/// Where the next byte of a file is.
enum Next {
    /// What is added to it: nobody has read it before.
    AtTheEnd,
    /// It was not there, or has taken another's place: all that it has is new.
    AtTheBeginning,
    /// After what was read of this one, which its device and number name.
    After { file: (u64, u64), position: u64 },
}

impl Followed {
    const fn new(next: Next) -> Self {
        Self { next, framer: Framer::new(Framing::Lines) }
    }

    /// Opens the file, at the next byte.
    fn open(&mut self, path: &str) -> anyhow::Result<(File, (u64, u64), u64)> {
        let cannot = || format!("cannot read {path}");
        let mut file = regular_file(Path::new(path)).with_context(cannot)?;
        let found = file.metadata().with_context(cannot)?;
        let this = (found.dev(), found.ino());
        let position = match self.next {
            Next::AtTheEnd => {
                let end = found.len();
                if ends_within_a_line(&file, end).with_context(cannot)? {
                    self.framer.join_midway();
                }
                end
            }
            Next::After { file, position } if file == this && position <= found.len() => position,
            Next::AtTheBeginning => 0,
            Next::After { .. } => {
                warn!(path, "it is another file than before the failure, or shorter: reading it from its beginning");
                self.framer = Framer::new(Framing::Lines);
                0
            }
        };
        file.seek(SeekFrom::Start(position)).with_context(cannot)?;
        self.next = Next::After { file: this, position };
        Ok((file, this, position))
    }
}

impl Lines {
    pub(crate) fn new(config: Config) -> Self {
        let followed = Followed::new(Next::AtTheEnd);
        let input = InputStatus { name: place(&config.from), ..InputStatus::default() };
        let (readings, messages, told) = (Vec::new(), Vec::new(), input.clone());
        Self { config, streams: HashMap::new(), readings, messages, followed, input, latest: Vec::new(), told }
    }

    /// Runs until something fails.
    pub(crate) async fn run(&mut self, outlet: &mut Outlet) -> anyhow::Result<()> {
        match self.config.from.clone() {
            LinesFrom::Udp(address) => {
                let socket = UdpSocket::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
                let mut framer = Framer::new(Framing::Lines);
                let mut datagram = vec![0; CHUNK];
                loop {
                    let (bytes, from) = socket.recv_from(&mut datagram).await.context("cannot receive")?;
                    self.push(&mut framer, &datagram[..bytes]);
                    self.take(&mut framer, &from, outlet).await?;
                    // A datagram is whole: its last line needs no end.
                    framer.end();
                    self.take(&mut framer, &from, outlet).await?;
                }
            }
            LinesFrom::File(path) => self.follow(&path, outlet).await,
            LinesFrom::Process(command) => self.read_command(&command, outlet).await,
            LinesFrom::Serial(SerialLine { device, baud, framing }) => {
                let opened = tokio_serial::new(&device, baud).open_native_async();
                let line = opened.with_context(|| format!("cannot open {device}"))?;
                let mut framer = Framer::new(framing);
                if timeout(QUIET, line.readable()).await.is_ok() {
                    framer.join_midway();
                }
                // Half a line at the end is half a line.
                self.read_all(line, &mut framer, &device, outlet).await?;
                bail!("{device} has ended: was it unplugged?")
            }
        }
    }

    async fn read_command(&mut self, command: &[String], outlet: &mut Outlet) -> anyhow::Result<()> {
        let [program, arguments @ ..] = command else { bail!("no command") };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        let output = child.stdout.take().ok_or_else(|| anyhow!("{program} has no output"))?;
        let mut framer = Framer::new(Framing::Lines);
        self.read_all(output, &mut framer, program, outlet).await?;
        framer.end();
        self.take(&mut framer, &program, outlet).await?;
        match timeout(LAST_BREATH, child.wait()).await {
            Ok(status) => {
                bail!("{program} has ended: {}", status.with_context(|| format!("cannot wait for {program}"))?)
            }
            Err(_) => bail!("{program} closed its output without ending: it is killed"),
        }
    }

    async fn read_all(
        &mut self,
        mut from: impl AsyncRead + Unpin,
        framer: &mut Framer,
        place: &str,
        outlet: &mut Outlet,
    ) -> anyhow::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            // A line may pause for as long as it likes.
            let patience = if framer.is_counted() && framer.has_begun() { PAUSE } else { Duration::MAX };
            match timeout(patience, from.read(&mut chunk)).await {
                Ok(Ok(0)) => return Ok(()),
                Ok(Ok(bytes)) => {
                    self.push(framer, &chunk[..bytes]);
                    self.take(framer, &place, outlet).await?;
                }
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error).with_context(|| format!("cannot read {place}")),
                Err(_) => framer.abandon(),
            }
        }
    }

    /// Reads what is added to a file. When it is renamed and another begins, the old one is read to its end first, which is not before
    /// something stands in the new one: whoever writes may go on with the old one for a while. One that is cut is seen to be so while it
    /// is shorter than it was. What fails is gone on with where it failed.
    async fn follow(&mut self, path: &str, outlet: &mut Outlet) -> anyhow::Result<()> {
        if matches!(self.followed.next, Next::AtTheEnd) && !Path::new(path).exists() {
            self.followed.next = Next::AtTheBeginning;
        }
        let cannot = || format!("cannot read {path}");
        let (mut file, mut this, mut position) = self.followed.open(path)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            let bytes = file.read(&mut chunk).with_context(cannot)?;
            if bytes > 0 {
                position += bytes as u64;
                self.followed.next = Next::After { file: this, position };
                self.take_followed(&chunk[..bytes], path, outlet).await?;
                tokio::task::yield_now().await;
                continue;
            }
            tokio::time::sleep(LOOK).await;
            // While it is being renamed there is none for a moment.
            let Ok(new) = std::fs::metadata(path) else { continue };
            let old = file.metadata().with_context(cannot)?;
            let is_another = (new.dev(), new.ino()) != this;
            if is_another && new.len() > 0 && old.len() <= position {
                self.followed.framer.end();
                self.take_followed(&[], path, outlet).await?;
            } else if !is_another && new.len() < position {
                warn!(path, "the file has become shorter: reading it from its beginning");
            } else {
                continue;
            }
            self.followed = Followed::new(Next::AtTheBeginning);
            (file, this, position) = self.followed.open(path)?;
        }
    }

    fn push(&mut self, framer: &mut Framer, bytes: &[u8]) {
        self.latest.clear();
        self.latest.extend_from_slice(&bytes[..bytes.len().min(SHOWN)]);
        framer.push(bytes);
    }

    async fn take_followed(&mut self, bytes: &[u8], path: &str, outlet: &mut Outlet) -> anyhow::Result<()> {
        let mut framer = std::mem::replace(&mut self.followed.framer, Framer::new(Framing::Lines));
        self.push(&mut framer, bytes);
        let outcome = self.take(&mut framer, &path, outlet).await;
        self.followed.framer = framer;
        outcome
    }

    /// Takes the lines that are whole, and hands them over.
    async fn take(&mut self, framer: &mut Framer, place: &dyn Display, outlet: &mut Outlet) -> anyhow::Result<()> {
        while let Some(found) = framer.next() {
            let outcome = match found {
                Ok(line) => {
                    let before = self.readings.len() + self.messages.len();
                    let outcome = self.line(line, outlet).await?.map_err(|reason| format!("{}: {reason}", shown(line)));
                    if outcome.is_ok() && self.readings.len() + self.messages.len() == before {
                        self.input.empty += 1;
                        self.input.last_empty = Some(format!("{}: no group has a number", shown(line)));
                    }
                    outcome
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = outcome {
                outlet.send(FromSource::BadRow(format!("{place}: {reason}"))).await?;
            }
            if self.readings.len() + self.messages.len() >= BATCH {
                self.hand_over(outlet).await?;
            }
        }
        self.input.used = true;
        self.input.unended_bytes = framer.unended();
        self.tell(outlet).await?;
        self.hand_over(outlet).await
    }

    /// Reports what came and gave nothing; an unended line or frame each time its length has doubled, and when it ends.
    async fn tell(&mut self, outlet: &Outlet) -> anyhow::Result<()> {
        let magnitude = |input: &InputStatus| (input.unended_bytes >= FEW_BYTES).then(|| input.unended_bytes.ilog2());
        let (input, told) = (&self.input, &self.told);
        if (input.used, input.empty, magnitude(input)) != (told.used, told.empty, magnitude(told)) {
            self.input.last_unended = magnitude(&self.input).map(|_| shown(&self.latest));
            self.told = self.input.clone();
            outlet.send(FromSource::Input(0, self.told.clone())).await?;
        }
        Ok(())
    }

    /// Takes one line. The inner error is the line's.
    async fn line(&mut self, line: &[u8], outlet: &mut Outlet) -> anyhow::Result<Result<(), String>> {
        let (time, quality) = (wall_clock(), Quality::OWN_CLOCK);
        let reader = match &self.config.lines {
            Meaning::Readings(reader) => reader,
            Meaning::Message(name) => {
                let (name, topic, payload) = (name.clone(), name.as_str().into(), line.into());
                let Some(local) = self.stream(&name, PacketKind::Messages, outlet).await? else {
                    return Ok(Err(too_many()));
                };
                self.messages.push(Message { time, stream: StreamId(local), quality, topic, payload });
                return Ok(Ok(()));
            }
        };
        let Ok(text) = std::str::from_utf8(line) else { return Ok(Err("it is not UTF-8".into())) };
        let mut found = Vec::new();
        if let Err(reason) = reader.read(text, |stream, value| found.push((stream, value))) {
            return Ok(Err(reason));
        }
        for (name, value) in found {
            let Some(local) = self.stream(&name, PacketKind::Readings, outlet).await? else {
                return Ok(Err(too_many()));
            };
            self.readings.push(Reading { time, value, stream: StreamId(local), quality });
        }
        Ok(Ok(()))
    }

    /// The source's own number of a stream; `None`: there are too many.
    async fn stream(&mut self, name: &str, kind: PacketKind, outlet: &mut Outlet) -> anyhow::Result<Option<u32>> {
        if let Some(local) = self.streams.get(name) {
            return Ok(Some(*local));
        }
        if self.streams.len() >= MAX_STREAMS {
            return Ok(None);
        }
        let local = u32::try_from(self.streams.len())?;
        outlet.send(FromSource::Stream { local, name: name.to_owned(), kind }).await?;
        self.streams.insert(name.to_owned(), local);
        Ok(Some(local))
    }

    async fn hand_over(&mut self, outlet: &mut Outlet) -> anyhow::Result<()> {
        let (readings, messages) = (std::mem::take(&mut self.readings), std::mem::take(&mut self.messages));
        Ok(outlet.hand_over(readings, messages).await?)
    }
}

/// What lines are read from, for people.
pub(super) fn place(from: &LinesFrom) -> String {
    match from {
        LinesFrom::Udp(address) => address.to_string(),
        LinesFrom::File(path) => path.clone(),
        LinesFrom::Process(command) => command.first().cloned().unwrap_or_default(),
        LinesFrom::Serial(SerialLine { device, .. }) => device.clone(),
    }
}

/// The beginning of a line.
fn shown(line: &[u8]) -> String {
    let shown: String = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]).into_owned();
    format!("`{}`", shown.escape_debug())
}

fn too_many() -> String {
    format!("the source has more than {MAX_STREAMS} streams")
}

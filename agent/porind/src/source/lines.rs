//! Sources of lines: datagrams, a file that grows, what a command prints, a serial line. What a line means is `core::lines`'.
//!
//! A line that means nothing is counted and told, never fatal. The time of a packet is when its line was there.

use std::{
    collections::HashMap,
    fs::{File, Metadata},
    io::{ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use porin_core::{
    config::{LinesFrom, LinesSource as Config},
    ids::StreamId,
    lines::{Lines as Meaning, MAX_LINE},
    packet::{Kind, Message, Quality, Reading},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::UdpSocket,
    process::Command,
};
use tokio_serial::SerialPortBuilderExt;
use tracing::warn;

use super::{BATCH, Outlet};
use crate::{inbox::FromSource, machine::wall_clock};

/// Streams that lines of one source may name. Noise on a serial line would otherwise fill the memory.
const MAX_STREAMS: usize = 10_000;

/// Between two looks at a file that has not grown.
const LOOK: Duration = Duration::from_millis(250);

/// Bytes that are read at a time, and of a datagram at most.
const CHUNK: usize = 65_536;

/// The source with its counters.
pub(crate) struct Lines {
    config: Config,
    streams: HashMap<String, u32>,
    readings: Vec<Reading>,
    messages: Vec<Message>,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
    /// Whether the line that has begun is longer than a line may be.
    too_long: bool,
    /// Whether the file was not there when it was looked for: all that it then has is new.
    was_missing: bool,
}

impl Lines {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            streams: HashMap::new(),
            readings: Vec::new(),
            messages: Vec::new(),
            begun: Vec::new(),
            too_long: false,
            was_missing: false,
        }
    }

    /// Runs until something fails.
    pub(crate) async fn run(&mut self, outlet: &mut Outlet) -> anyhow::Result<()> {
        self.begun.clear();
        self.too_long = false;
        match self.config.from.clone() {
            LinesFrom::Udp(address) => {
                let socket = UdpSocket::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
                let mut datagram = vec![0; CHUNK];
                loop {
                    let (bytes, from) = socket.recv_from(&mut datagram).await.context("cannot receive")?;
                    self.take(&datagram[..bytes], &from.to_string(), outlet).await?;
                    // A datagram is whole: its last line needs no end.
                    self.end_line(&from.to_string(), outlet).await?;
                    self.hand_over(outlet).await?;
                }
            }
            LinesFrom::File(path) => self.follow(&path, outlet).await,
            LinesFrom::Process(command) => self.read_command(&command, outlet).await,
            LinesFrom::Serial(device, baud) => {
                let opened = tokio_serial::new(&device, baud).open_native_async();
                let line = opened.with_context(|| format!("cannot open {device}"))?;
                self.read_all(line, &device, outlet).await?;
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
        self.read_all(output, program, outlet).await?;
        let status = child.wait().await.with_context(|| format!("cannot wait for {program}"))?;
        bail!("{program} has ended: {status}")
    }

    async fn read_all(
        &mut self,
        mut from: impl AsyncRead + Unpin,
        place: &str,
        outlet: &mut Outlet,
    ) -> anyhow::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            match from.read(&mut chunk).await {
                Ok(0) => return self.hand_over(outlet).await,
                Ok(bytes) => self.take(&chunk[..bytes], place, outlet).await?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(|| format!("cannot read {place}")),
            }
            self.hand_over(outlet).await?;
        }
    }

    /// Reads what is added to a file. When it is renamed and another begins, the old one is read to its end first. One that is cut is seen
    /// to be so while it is shorter than it was.
    async fn follow(&mut self, path: &str, outlet: &mut Outlet) -> anyhow::Result<()> {
        let opened = |from: SeekFrom| -> anyhow::Result<(File, Metadata)> {
            let mut file = File::open(path).with_context(|| format!("cannot read {path}"))?;
            file.seek(from).with_context(|| format!("cannot read {path}"))?;
            let metadata = file.metadata().with_context(|| format!("cannot read {path}"))?;
            Ok((file, metadata))
        };
        self.was_missing |= !Path::new(path).exists();
        let from = if self.was_missing { SeekFrom::Start(0) } else { SeekFrom::End(0) };
        let (mut file, mut metadata) = opened(from)?;
        self.was_missing = false;
        let mut chunk = vec![0; CHUNK];
        loop {
            let bytes = file.read(&mut chunk).with_context(|| format!("cannot read {path}"))?;
            if bytes > 0 {
                self.take(&chunk[..bytes], path, outlet).await?;
                self.hand_over(outlet).await?;
                tokio::task::yield_now().await;
                continue;
            }
            tokio::time::sleep(LOOK).await;
            // While it is being renamed there is none for a moment.
            let Ok(now) = std::fs::metadata(path) else { continue };
            let is_another = (now.dev(), now.ino()) != (metadata.dev(), metadata.ino());
            let position = file.stream_position().with_context(|| format!("cannot read {path}"))?;
            let has_more = file.metadata().is_ok_and(|metadata| metadata.len() > position);
            if is_another && !has_more {
                self.end_line(path, outlet).await?;
                (file, metadata) = opened(SeekFrom::Start(0))?;
            } else if !is_another && now.len() < position {
                warn!(path, "the file has become shorter: it is read from its beginning");
                self.begun.clear();
                file.seek(SeekFrom::Start(0)).with_context(|| format!("cannot read {path}"))?;
            }
        }
    }

    /// Takes bytes, in which lines end anywhere or nowhere.
    async fn take(&mut self, bytes: &[u8], place: &str, outlet: &mut Outlet) -> anyhow::Result<()> {
        let mut pieces = bytes.split(|byte| *byte == b'\n');
        let last = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            self.add(piece);
            self.end_line(place, outlet).await?;
        }
        self.add(last);
        Ok(())
    }

    fn add(&mut self, piece: &[u8]) {
        let room = MAX_LINE - self.begun.len().min(MAX_LINE);
        self.too_long |= piece.len() > room;
        self.begun.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    async fn end_line(&mut self, place: &str, outlet: &mut Outlet) -> anyhow::Result<()> {
        let mut line = std::mem::take(&mut self.begun);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if line.is_empty() {
            return Ok(());
        }
        let outcome = match std::mem::take(&mut self.too_long) {
            true => Err(format!("it has more than {MAX_LINE} bytes")),
            false => self.line(&line, outlet).await?,
        };
        if let Err(reason) = outcome {
            let shown: String = String::from_utf8_lossy(&line).chars().take(64).collect();
            outlet.send(FromSource::BadRow(format!("{place}: `{}`: {reason}", shown.escape_debug()))).await?;
        }
        line.clear();
        // Its room is used again.
        self.begun = line;
        if self.readings.len() + self.messages.len() >= BATCH {
            self.hand_over(outlet).await?;
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
                let Some(local) = self.stream(&name, Kind::Messages, outlet).await? else { return Ok(Err(too_many())) };
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
            let Some(local) = self.stream(&name, Kind::Readings, outlet).await? else { return Ok(Err(too_many())) };
            self.readings.push(Reading { time, value, stream: StreamId(local), quality });
        }
        Ok(Ok(()))
    }

    /// The source's own number of a stream; `None`: there are too many.
    async fn stream(&mut self, name: &str, kind: Kind, outlet: &mut Outlet) -> anyhow::Result<Option<u32>> {
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

fn too_many() -> String {
    format!("the source has more than {MAX_STREAMS} streams")
}

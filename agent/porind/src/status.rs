//! The status socket: a line asks, JSON answers.
//!
//! `status` gets a snapshot, `report` the same as text, `doctor` what is wrong in it, and the connection is closed. `tap PATTERN` gets a line for each packet on streams that the
//! pattern chooses, as sources make it and as routes keep it, until one side closes. A tap never slows the packets
//! down: what it cannot take is counted and left out. `dead list`, `dead replay all`, `dead discard 3 4` are about dead letters; what
//! changes something is for root and the agent's own user.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader as BlockingReader, Read, Write},
    os::unix::{fs::FileTypeExt, net::UnixStream as BlockingStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use porin_core::{status::Snapshot, stream::Pattern};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
};

use crate::{
    doctor::{self, Finding},
    inbox::{DeadQuestion, Doorbell, Question, Which},
    report::report,
    tap::{TAP_QUEUE, Tap},
};

/// Time for an answer. The loop answers between two batches.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of an answer at most: 10,000 streams take 1 MB.
const MAX_ANSWER: u64 = 64 << 20;

/// Bytes of a question: the numbers of some hundred dead letters.
const MAX_QUESTION: u64 = 4_096;

/// Dead letters that one step of the loop gives again: other packets wait meanwhile.
const REPLAYED_AT_ONCE: usize = 32;

/// Connections at a time. Beyond it the asker waits.
const CONNECTIONS: usize = 16;

/// The way to ask the loop.
#[derive(Clone, Debug)]
pub(crate) struct Questions {
    pub(crate) queue: mpsc::Sender<Question>,
    pub(crate) doorbell: Doorbell,
}

impl Questions {
    async fn ask(&self, question: Question) -> anyhow::Result<()> {
        self.queue.send(question).await?;
        self.doorbell.ring();
        Ok(())
    }

    pub(crate) async fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let (reply, snapshot) = oneshot::channel();
        self.ask(Question::Status(reply)).await?;
        Ok(snapshot.await?)
    }
}

/// Makes the socket. One that an agent left behind is replaced; a living agent holds the store, so it is not reached.
pub(crate) fn listen(path: &str) -> anyhow::Result<UnixListener> {
    let place = Path::new(path);
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("making {} for the status socket", folder.display()))?;
    }
    if let Ok(there) = std::fs::symlink_metadata(place) {
        ensure!(there.file_type().is_socket(), "{path} is there and is not a socket");
        std::fs::remove_file(place).with_context(|| format!("replacing the status socket {path}"))?;
    }
    UnixListener::bind(place).with_context(|| format!("making the status socket {path}"))
}

/// Answers until the agent ends.
pub(crate) async fn serve(listener: UnixListener, questions: Questions) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let questions = questions.clone();
                tokio::task::spawn_local(async move {
                    let _place = place;
                    // An asker that goes away is no error.
                    let _ = answer(stream, &questions).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the status socket");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, questions: &Questions) -> anyhow::Result<()> {
    // SAFETY: it asks for a number.
    #[allow(unsafe_code)]
    let own = unsafe { libc::geteuid() };
    let may_change = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own);
    let (reader, mut writer) = stream.into_split();
    let mut question = String::new();
    let mut reader = BufReader::new(reader.take(MAX_QUESTION));
    tokio::time::timeout(PATIENCE, reader.read_line(&mut question)).await??;
    match question.trim_end().split_once(' ') {
        None if ["status", "report", "doctor"].contains(&question.trim_end()) => {
            let snapshot = questions.snapshot().await?;
            let answer = match question.trim_end() {
                "report" => report(&snapshot).into_bytes(),
                "doctor" => serde_json::to_vec(&doctor::about(&snapshot))?,
                _ => serde_json::to_vec(&snapshot)?,
            };
            tokio::time::timeout(PATIENCE, writer.write_all(&answer)).await??;
        }
        // A question that was cut off is not carried out.
        Some(("dead", what)) if question.ends_with('\n') => {
            let answer = match dead_question(what) {
                Some(DeadQuestion::Replay(which)) if may_change => replay(questions, which).await?,
                Some(question) if question == DeadQuestion::List || may_change => ask_loop(questions, question).await?,
                Some(_) => json!({ "error": "only root and the agent's own user may do that" }),
                None => json!({ "error": "ask `dead list`, `dead replay` or `dead discard` with numbers, or `all`" }),
            };
            tokio::time::timeout(PATIENCE, writer.write_all(&serde_json::to_vec(&answer)?)).await??;
        }
        Some(("tap", pattern)) => match Pattern::parse(pattern) {
            Ok(pattern) => {
                let (lines, mut waiting) = mpsc::channel(TAP_QUEUE);
                questions.ask(Question::Tap(Tap::new(pattern, lines))).await?;
                let mut word = [0; 16];
                loop {
                    tokio::select! {
                        line = waiting.recv() => match line {
                            Some(line) => tokio::time::timeout(PATIENCE, writer.write_all(line.as_bytes())).await??,
                            None => break,
                        },
                        // Whoever looks has nothing more to say: this is its end, also where nothing passes.
                        read = reader.read(&mut word) => if read? == 0 { break },
                    }
                }
            }
            Err(error) => {
                writer.write_all(format!("{{\"error\":{:?}}}\n", format!("`{pattern}`: {error}")).as_bytes()).await?
            }
        },
        _ => writer.write_all(b"{\"error\":\"ask `status`, `report`, `doctor`, `dead` or `tap PATTERN`\"}\n").await?,
    }
    writer.shutdown().await?;
    Ok(())
}

async fn ask_loop(questions: &Questions, question: DeadQuestion) -> anyhow::Result<Value> {
    let (reply, answer) = oneshot::channel();
    questions.ask(Question::Dead(question, reply)).await?;
    Ok(answer.await?)
}

/// Has letters given again, some at a time: between them the loop looks after its packets. Ends after the first that faults again.
async fn replay(questions: &Questions, which: Which) -> anyhow::Result<Value> {
    let numbers = match which {
        Which::Numbers(numbers) => numbers,
        Which::All => {
            let list = ask_loop(questions, DeadQuestion::List).await?;
            let letters = list["dead_letters"].as_array().into_iter().flatten();
            letters.filter_map(|letter| letter["id"].as_u64()).collect()
        }
    };
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    // Nothing at all is a question, too: it is answered with zeroes.
    let mut parts = numbers.chunks(REPLAYED_AT_ONCE);
    let mut part = parts.next().unwrap_or_default();
    loop {
        let answer = ask_loop(questions, DeadQuestion::Replay(Which::Numbers(part.to_vec()))).await?;
        for (what, count) in answer.as_object().into_iter().flatten() {
            *sums.entry(what.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
        match parts.next() {
            Some(next) if answer["faulted_again"] == 0 => part = next,
            _ => return Ok(json!(sums)),
        }
    }
}

/// `list`, `replay all`, `discard 3 4`.
fn dead_question(text: &str) -> Option<DeadQuestion> {
    let mut words = text.split_ascii_whitespace();
    let (verb, first) = (words.next()?, words.next());
    let which = || match first? {
        "all" => words.next().is_none().then_some(Which::All),
        first => {
            let numbers = std::iter::once(first).chain(words).map(|word| word.parse().ok());
            numbers.collect::<Option<Vec<_>>>().map(Which::Numbers)
        }
    };
    match verb {
        "list" => first.is_none().then_some(DeadQuestion::List),
        "replay" => which().map(DeadQuestion::Replay),
        "discard" => which().map(DeadQuestion::Discard),
        _ => None,
    }
}

fn connect(socket: &str, question: &str) -> anyhow::Result<BlockingStream> {
    let mut stream = BlockingStream::connect(socket).with_context(|| format!("no agent answers at {socket}"))?;
    stream.write_all(question.as_bytes()).with_context(|| format!("asking the agent at {socket}"))?;
    Ok(stream)
}

/// Asks a running agent. Gives the JSON of its snapshot.
///
/// # Errors
/// If there is no agent at the socket, or it does not answer.
pub fn ask(socket: &str) -> anyhow::Result<String> {
    answer_to(socket, "status")
}

/// Asks a running agent for its status as a person reads it.
///
/// # Errors
/// If there is no agent at the socket, or it does not answer.
pub(crate) fn ask_report(socket: &str) -> anyhow::Result<String> {
    answer_to(socket, "report").and_then(|text| understood(text, socket))
}

/// Asks a running agent what it finds about itself.
///
/// # Errors
/// If there is no agent at the socket, or it does not answer.
pub(crate) fn ask_doctor(socket: &str) -> anyhow::Result<Vec<Finding>> {
    let text = answer_to(socket, "doctor").and_then(|text| understood(text, socket))?;
    serde_json::from_str(&text).with_context(|| format!("the answer of the agent at {socket}"))
}

/// An agent of an older porin does not know every question.
fn understood(text: String, socket: &str) -> anyhow::Result<String> {
    ensure!(!text.starts_with("{\"error\""), "the agent at {socket} is of an older porin: restart it");
    Ok(text)
}

/// Asks a running agent about dead letters: `list`, `replay all`, `discard 3 4`. Gives the JSON of its answer.
///
/// # Errors
/// If there is no agent at the socket, or it does not answer.
pub(crate) fn ask_dead(socket: &str, what: &str) -> anyhow::Result<String> {
    let question = format!("dead {what}");
    ensure!((question.len() as u64) < MAX_QUESTION, "too many numbers at once: give fewer, or --all");
    answer_to(socket, &question)
}

fn answer_to(socket: &str, question: &str) -> anyhow::Result<String> {
    let stream = connect(socket, &format!("{question}\n"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut text).with_context(|| format!("reading the answer of {socket}"))?;
    Ok(text)
}

/// Taps a running agent: a line of JSON for each packet on streams that the pattern chooses, until the agent ends.
///
/// # Errors
/// If there is no agent at the socket.
pub fn tap(socket: &str, pattern: &str) -> anyhow::Result<impl Iterator<Item = std::io::Result<String>> + use<>> {
    Ok(BlockingReader::new(connect(socket, &format!("tap {pattern}\n"))?).lines())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_about_dead_letters_are_read_strictly() {
        let numbers = |numbers: &[u64]| Which::Numbers(numbers.to_vec());
        assert_eq!(dead_question("list"), Some(DeadQuestion::List));
        assert_eq!(dead_question("replay all"), Some(DeadQuestion::Replay(Which::All)));
        assert_eq!(dead_question("replay 3 4"), Some(DeadQuestion::Replay(numbers(&[3, 4]))));
        assert_eq!(dead_question("discard 9"), Some(DeadQuestion::Discard(numbers(&[9]))));
        for wrong in ["", "list 1", "replay", "replay all 3", "replay 3 x", "discard -1", "forget 3", "discard 1e3"] {
            assert_eq!(dead_question(wrong), None, "{wrong}");
        }
    }
}

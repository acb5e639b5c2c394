//! The status socket: whoever connects gets a snapshot as JSON, and the connection is closed.

use std::{
    io::{Read, Write},
    os::unix::{fs::FileTypeExt, net::UnixStream as BlockingStream},
    path::Path,
    time::Duration,
};

use anyhow::{Context, ensure};
use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};

use porin_core::status::Snapshot;

use crate::inbox::Doorbell;

/// Time for an answer. The loop answers between two batches.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of an answer at most: 10,000 streams take 1 MB.
const MAX_ANSWER: u64 = 64 << 20;

/// Makes the socket. One that an agent left behind is replaced; a living agent holds the store, so it is not reached.
pub(crate) fn listen(path: &str) -> anyhow::Result<UnixListener> {
    let place = Path::new(path);
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("making {} for the status socket", folder.display()))?;
    }
    if let Ok(there) = std::fs::symlink_metadata(place) {
        ensure!(there.file_type().is_socket(), "{path} is there and is no socket");
        std::fs::remove_file(place).with_context(|| format!("replacing the status socket {path}"))?;
    }
    UnixListener::bind(place).with_context(|| format!("making the status socket {path}"))
}

/// Answers until the agent ends.
pub(crate) async fn serve(
    listener: UnixListener,
    questions: mpsc::Sender<oneshot::Sender<Snapshot>>,
    doorbell: Doorbell,
) {
    loop {
        match listener.accept().await {
            // One at a time: a slow asker delays other askers only.
            Ok((stream, _)) => drop(tokio::time::timeout(PATIENCE, answer(stream, &questions, &doorbell)).await),
            Err(error) => {
                tracing::warn!(%error, "the status socket");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(
    mut stream: UnixStream,
    questions: &mpsc::Sender<oneshot::Sender<Snapshot>>,
    doorbell: &Doorbell,
) -> anyhow::Result<()> {
    let (reply, snapshot) = oneshot::channel();
    questions.send(reply).await?;
    doorbell.ring();
    stream.write_all(&serde_json::to_vec(&snapshot.await?)?).await?;
    stream.shutdown().await?;
    Ok(())
}

/// Asks a running agent. Gives the JSON of its snapshot.
///
/// # Errors
/// If there is no agent at the socket, or it does not answer.
pub fn ask(socket: &str) -> anyhow::Result<String> {
    let mut stream = BlockingStream::connect(socket).with_context(|| format!("no agent answers at {socket}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.flush()?;
    let mut text = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut text).with_context(|| format!("reading the status from {socket}"))?;
    Ok(text)
}

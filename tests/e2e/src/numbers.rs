//! Numbers from 0 on, published until they are enough: what is lost on the way is missing, whatever came twice.

use std::{
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::publish_lines;

/// A publisher on the topic `n/x` of a local broker. It goes on while an agent is dead.
#[derive(Debug)]
pub struct Numbers {
    stop: mpsc::Sender<()>,
    publisher: JoinHandle<u64>,
}

impl Numbers {
    /// Publishes `piece` numbers at a time, each piece acknowledged by the broker before the next one, with a pause between them.
    #[must_use]
    pub fn publish(port: u16, piece: u64, pause: Duration) -> Self {
        let (stop, stopped) = mpsc::channel();
        let publisher = thread::spawn(move || {
            let mut published = 0;
            while stopped.try_recv().is_err() {
                let lines = (published..published + piece).map(|number| format!("{number}\n")).collect::<String>();
                publish_lines(port, "n/x", &lines);
                published += piece;
                thread::sleep(pause);
            }
            published
        });
        Self { stop, publisher }
    }

    /// Ends it; how many the broker took.
    ///
    /// # Panics
    /// If it could not publish.
    #[must_use]
    pub fn stop(self) -> u64 {
        self.stop.send(()).expect("the publisher lives");
        self.publisher.join().expect("it publishes")
    }
}

//! SIGINT and SIGTERM: the first asks for a clean stop, the second ends the process at once.

use crate::exit::{Code, Failure};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Tells when the first signal came.
pub(super) struct Signals {
    first: Receiver<()>,
}

impl Signals {
    /// Listens from now on, on a thread of its own.
    pub(super) fn listen() -> Result<Signals, Failure> {
        let failed =
            |error: std::io::Error| Failure::new(Code::Failed, format!("cannot listen to signals: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(failed)?;
        let entered = runtime.enter();
        let signals = (
            signal(SignalKind::interrupt()).map_err(failed)?,
            signal(SignalKind::terminate()).map_err(failed)?,
        );
        drop(entered);
        let (tell, first) = channel();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(relay(signals, tell)))
            .map_err(failed)?;
        Ok(Signals { first })
    }

    /// Waits for the first signal.
    pub(super) fn wait(&self) {
        // An error means that the thread is gone: then nobody could ever stop us but a kill, so stop.
        let _ = self.first.recv();
    }

    /// Waits for the first signal, but not longer than this; true when it came.
    pub(super) fn wait_for(&self, patience: Duration) -> bool {
        self.first.recv_timeout(patience).is_ok()
    }
}

async fn relay((mut interrupt, mut terminate): (Signal, Signal), first: Sender<()>) {
    next(&mut interrupt, &mut terminate).await;
    // Nobody may be waiting any more.
    let _ = first.send(());
    next(&mut interrupt, &mut terminate).await;
    eprintln!("flotilla: stopped at once; nothing that was acknowledged is lost");
    std::process::exit(i32::from(Code::Interrupted as u8));
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

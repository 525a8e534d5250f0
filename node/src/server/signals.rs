//! SIGINT and SIGTERM: the first asks for a clean stop, the second ends the process at once. SIGHUP asks to read the
//! certificates again.

use crate::exit::{Code, Failure};
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// A clean stop.
    Stop,
    /// Reading the certificates again.
    Reload,
}

/// Tells what signals ask for.
pub(super) struct Signals {
    wishes: Receiver<Wish>,
}

impl Signals {
    /// Listens for stops from now on, on a thread of its own. SIGHUP ends the process, as a closed terminal should.
    pub(super) fn listen() -> Result<Signals, Failure> {
        Signals::start(false)
    }

    /// The same, and SIGHUP asks for a reload.
    pub(super) fn listen_for_reloads_too() -> Result<Signals, Failure> {
        Signals::start(true)
    }

    fn start(reloads: bool) -> Result<Signals, Failure> {
        let failed =
            |error: io::Error| Failure::new(Code::Failed, format!("cannot listen to signals: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(failed)?;
        let entered = runtime.enter();
        let incoming = Incoming::new(reloads).map_err(failed)?;
        drop(entered);
        let (tell, wishes) = channel();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(relay(incoming, tell)))
            .map_err(failed)?;
        Ok(Signals { wishes })
    }

    /// Waits for the next signal.
    pub(super) fn next(&self) -> Wish {
        // An error means that the thread is gone: then nobody could ever stop us but a kill, so stop.
        self.wishes.recv().unwrap_or(Wish::Stop)
    }

    /// Waits for a signal, but not longer than this; true when it came.
    pub(super) fn wait_for(&self, patience: Duration) -> bool {
        self.wishes.recv_timeout(patience).is_ok()
    }
}

struct Incoming {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Incoming {
    fn new(reloads: bool) -> io::Result<Incoming> {
        let hangup = reloads.then(|| signal(SignalKind::hangup())).transpose()?;
        Ok(Incoming {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
        })
    }

    async fn next(&mut self) -> Wish {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.terminate.recv() => Wish::Stop,
            _ = hangup => Wish::Reload,
        }
    }
}

async fn relay(mut incoming: Incoming, tell: Sender<Wish>) {
    let mut stopping = false;
    loop {
        let wish = incoming.next().await;
        if wish == Wish::Stop && std::mem::replace(&mut stopping, true) {
            eprintln!("flotilla: stopped at once; nothing that was acknowledged is lost");
            std::process::exit(i32::from(Code::Interrupted as u8));
        }
        // Nobody may be waiting any more.
        let _ = tell.send(wish);
    }
}

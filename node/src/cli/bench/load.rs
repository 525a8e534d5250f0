//! Runs the load: one task per client on one thread, a pacer for the open loop, a progress bar on a terminal.

use super::plan::{Operation, Plan, Requests};
use super::report::{Recorder, Report};
use super::target::{Target, Wrong};
use crate::exit::{Code, Failure};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::time::{ClockId, clock_gettime};
use std::cell::{Cell, RefCell};
use std::io::IsTerminal;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;
use tokio::time::{sleep, sleep_until};

/// A client that was refused waits this long, so that refusals do not become the load.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(5);
/// How often the progress bar moves.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// The pacer wakes at most this often; requests due in between start together.
const PACE_MIN: Duration = Duration::from_micros(100);

/// What all clients share.
struct Run {
    target: Target,
    plan: Plan,
    recorder: RefCell<Recorder>,
    start: Instant,
    measure_from: Instant,
    /// No request begins after this.
    end: Cell<Instant>,
    /// Open loop: a permit for each request that is due.
    due: Arc<Semaphore>,
    /// Open loop: the number of the next request.
    next: Cell<u64>,
}

/// Runs the plan. The report, and whether Ctrl-C cut it short.
pub(super) async fn run(target: Target, plan: Plan) -> (Report, bool) {
    let start = Instant::now();
    let measure_from = start + plan.warmup;
    let run = Rc::new(Run {
        target,
        recorder: RefCell::new(Recorder::new()),
        start,
        measure_from,
        end: Cell::new(measure_from + plan.duration),
        due: Arc::new(Semaphore::new(0)),
        next: Cell::new(0),
        plan,
    });
    let tasks = LocalSet::new();
    (0..run.plan.clients).for_each(|client| drop(tasks.spawn_local(run.clone().client(client))));
    if let Some(rate) = run.plan.rate {
        start_pacer(rate, start, run.end.get(), run.due.clone());
    }
    let watched = tasks.run_until(run.watch()).await;
    let unsent = run.due.available_permits() as u64;
    run.due.close();
    // Clients that wait for an answer finish within their request's timeout.
    tasks.await;
    let recorder = run.recorder.replace(Recorder::new());
    let mut report = recorder.into_report(&run.plan, run.target.connections());
    (report.measured, report.cpu, report.unsent) = (watched.measured, watched.cpu, unsent);
    (report, watched.interrupted)
}

struct Watched {
    measured: Duration,
    cpu: Duration,
    interrupted: bool,
}

impl Run {
    async fn client(self: Rc<Self>, client: usize) {
        let mut requests = Requests::new(&self.plan, client);
        while let Some(intended) = self.turn().await {
            let (operation, key, value) = requests.next();
            let outcome = self.target.ask(client, operation, key, value).await;
            let is_error = outcome.is_err();
            if intended >= self.measure_from {
                self.recorder
                    .borrow_mut()
                    .record(operation, intended.elapsed(), outcome);
            }
            if is_error {
                // pace: an error is not repeated as fast as the machine can.
                sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }

    /// When the client's next request begins, or should have; None: it is over.
    async fn turn(&self) -> Option<Instant> {
        let Some(rate) = self.plan.rate else {
            let now = Instant::now();
            return (now < self.end.get()).then_some(now);
        };
        self.due.acquire().await.ok()?.forget();
        let number = self.next.replace(self.next.get() + 1);
        (Instant::now() < self.end.get()).then(|| due_at(self.start, rate, number))
    }

    /// Waits for the end, or for Ctrl-C.
    async fn watch(&self) -> Watched {
        let bar = progress_bar(self.end.get() - self.start);
        let mut cpu_before = None;
        let mut interrupted = false;
        let interrupt = tokio::signal::ctrl_c();
        tokio::pin!(interrupt);
        loop {
            let now = Instant::now();
            if now >= self.measure_from {
                cpu_before.get_or_insert_with(process_cpu);
            }
            if now >= self.end.get() || interrupted {
                break;
            }
            self.show(&bar, now);
            let next = if now < self.measure_from {
                self.measure_from
            } else {
                self.end.get()
            };
            tokio::select! {
                () = sleep_until(next.min(now + PROGRESS_INTERVAL).into()) => {}
                _ = &mut interrupt => interrupted = true,
            }
        }
        let now = Instant::now();
        self.end.set(now.min(self.end.get()));
        bar.finish_and_clear();
        let cpu = process_cpu();
        Watched {
            measured: self.end.get().saturating_duration_since(self.measure_from),
            cpu: cpu - cpu_before.unwrap_or(cpu),
            interrupted,
        }
    }

    fn show(&self, bar: &ProgressBar, now: Instant) {
        let answered = self.recorder.borrow().answered();
        let seconds = now.saturating_duration_since(self.measure_from).as_secs_f64();
        let rate = if seconds > 0.0 {
            answered as f64 / seconds
        } else {
            0.0
        };
        bar.set_position(now.saturating_duration_since(self.start).as_millis() as u64);
        bar.set_message(format!("{rate:.0} ops/s"));
    }
}

fn due_at(start: Instant, rate: u64, number: u64) -> Instant {
    let nanos = u128::from(number) * 1_000_000_000 / u128::from(rate);
    start + Duration::from_nanos(u64::try_from(nanos).expect("a bench ends within centuries"))
}

/// Drawn on stderr, and only on a terminal.
fn progress_bar(whole: Duration) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {percent}%  {msg}").expect("the template is sound");
    ProgressBar::new(whole.as_millis() as u64).with_style(style)
}

/// CPU time of this process so far, user and system, all threads.
fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Issues a permit for every request when it is due. A thread of its own: the timers of the clients' runtime are too
/// coarse, and a busy client must not delay what is due.
fn start_pacer(rate: u64, start: Instant, end: Instant, due: Arc<Semaphore>) {
    std::thread::spawn(move || {
        let mut issued = 0;
        let step = (Duration::from_secs(1) / rate as u32).clamp(PACE_MIN, PROGRESS_INTERVAL);
        while !due.is_closed() {
            let now = Instant::now().min(end);
            let total = (now - start).as_nanos() * u128::from(rate) / 1_000_000_000;
            let total = u64::try_from(total).expect("a bench ends within centuries");
            due.add_permits((total - issued) as usize);
            issued = total;
            if now == end {
                return;
            }
            // pace: the progress bar moves at human speed.
            std::thread::sleep(step);
        }
    });
}

/// Writes every key once; hands the connections back.
pub(super) async fn prefill(target: Target, plan: &Plan) -> Result<Target, Failure> {
    let fill = Rc::new(Fill {
        target,
        plan: plan.clone(),
        next: Cell::new(0),
        failed: RefCell::new(None),
        bar: progress_bar(Duration::from_millis(plan.keys)),
    });
    let tasks = LocalSet::new();
    (0..plan.clients).for_each(|client| drop(tasks.spawn_local(fill.clone().client(client))));
    tasks.await;
    let fill = Rc::into_inner(fill).expect("all clients are done");
    fill.bar.finish_and_clear();
    match fill.failed.into_inner() {
        None => Ok(fill.target),
        Some(wrong) => Err(Failure::new(Code::Failed, format!("prefill: {wrong:?}"))),
    }
}

/// What the clients of the prefill share.
struct Fill {
    target: Target,
    plan: Plan,
    next: Cell<u64>,
    failed: RefCell<Option<Wrong>>,
    bar: ProgressBar,
}

impl Fill {
    async fn client(self: Rc<Self>, client: usize) {
        let mut requests = Requests::new(&self.plan, client);
        while self.failed.borrow().is_none() {
            let number = self.next.replace(self.next.get() + 1);
            if number >= self.plan.keys {
                return;
            }
            self.bar.inc(1);
            self.put(client, requests.first(number)).await;
        }
    }

    /// Writing the same pair twice does no harm, so every failure may be tried again.
    async fn put(&self, client: usize, (key, value): (&[u8], &[u8])) {
        const ATTEMPTS: usize = 20;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match self.target.ask(client, Operation::Put, key, value).await {
                Ok(_) => return,
                Err(wrong) => last = Some(wrong),
            }
            // pace: an error is not repeated as fast as the machine can.
            sleep(PAUSE_AFTER_ERROR).await;
        }
        *self.failed.borrow_mut() = last;
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::plan;
    use super::super::resp::RespClient;
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// Answers every command with +OK, but stands still for `stall` after the first 50. Counts commands by their
    /// asterisks: values must be empty.
    async fn answer_all(mut stream: TcpStream, stall: Duration) {
        let (mut answered, mut bytes) = (0, [0; 4096]);
        while let Ok(length) = stream.read(&mut bytes).await
            && length > 0
        {
            let commands = bytes[..length].iter().filter(|byte| **byte == b'*').count();
            if answered < 50 && answered + commands >= 50 {
                // pace: the stall whose effect on the histogram is being tested.
                sleep(stall).await;
            }
            answered += commands;
            stream
                .write_all(&b"+OK\r\n".repeat(commands))
                .await
                .expect("the client is there");
        }
    }

    async fn against_a_stalling_server(plan: Plan, stall: Duration) -> Report {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let at = listener.local_addr().expect("bound").to_string();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a client");
            stream.set_nodelay(true).expect("a socket");
            answer_all(stream, stall).await;
        });
        let client = RespClient::connect(&at, None).await.expect("connected");
        run(Target::Resp(vec![client], Duration::from_secs(5)), plan)
            .await
            .0
    }

    /// A server that stands still for 300 ms delays every request that was due meanwhile, sent or not.
    #[tokio::test]
    async fn the_open_loop_does_not_omit_what_was_due_during_a_stall() {
        let plan = Plan {
            rate: Some(500),
            clients: 2,
            value_size: 0,
            ..plan("put=1")
        };
        let report = against_a_stalling_server(plan, Duration::from_millis(300)).await;
        let late = report.recorder.count_above(Duration::from_millis(100));
        assert!(
            (480..=500).contains(&report.answered()),
            "{} answered",
            report.answered()
        );
        assert!(
            late >= 80,
            "only {late} were late, but some 100 were due before the last 100 ms of the stall"
        );
        assert_eq!(report.unsent, 0);
    }

    #[tokio::test]
    async fn the_closed_loop_asks_again_after_each_answer() {
        let plan = Plan {
            duration: Duration::from_millis(300),
            value_size: 0,
            ..plan("put=1,get=1")
        };
        let report = against_a_stalling_server(plan, Duration::from_millis(100)).await;
        assert!(
            report.answered() > 50,
            "{} answered, {:?}",
            report.answered(),
            report.first_error
        );
        assert_eq!(
            report.recorder.count_above(Duration::from_millis(90)),
            2,
            "one for each client"
        );
    }

    #[test]
    fn requests_are_due_at_even_times() {
        let start = Instant::now();
        let after = |rate, number| due_at(start, rate, number) - start;
        assert_eq!(after(1000, 0), Duration::ZERO);
        assert_eq!(after(1000, 2500), Duration::from_millis(2500));
        assert_eq!(after(3, 1), Duration::from_nanos(333_333_333));
    }
}

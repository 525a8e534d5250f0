//! What came out: counts, latencies, CPU time; and how it is shown.

use super::super::output::{Align, Format, json_list, table};
use super::Api;
use super::plan::{Operation, Plan};
use super::target::Wrong;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::time::Duration;

/// Latencies of one operation in microseconds, and its count.
pub(super) struct Latencies(Histogram<u64>);

/// Latencies beyond this count as this much.
const LATENCY_MAX: Duration = Duration::from_secs(120);

impl Latencies {
    fn new() -> Latencies {
        let highest = LATENCY_MAX.as_micros() as u64;
        Latencies(Histogram::new_with_bounds(1, highest, 3).expect("the bounds are sound"))
    }

    fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros.max(1));
    }

    /// p50, p90, p99, p99.9 and the maximum.
    fn quantiles(&self) -> [u64; 5] {
        [0.5, 0.9, 0.99, 0.999, 1.0].map(|q| self.0.value_at_quantile(q))
    }
}

/// What the clients saw.
pub(super) struct Recorder {
    puts: Latencies,
    gets: Latencies,
    misses: u64,
    refused: u64,
    unknown: u64,
    timed_out: u64,
    failed: u64,
    first_error: Option<String>,
}

impl Recorder {
    pub(super) fn new() -> Recorder {
        Recorder {
            puts: Latencies::new(),
            gets: Latencies::new(),
            misses: 0,
            refused: 0,
            unknown: 0,
            timed_out: 0,
            failed: 0,
            first_error: None,
        }
    }

    pub(super) fn record(&mut self, operation: Operation, latency: Duration, outcome: Result<bool, Wrong>) {
        match outcome {
            Ok(found) => {
                self.misses += u64::from(!found);
                match operation {
                    Operation::Put => self.puts.record(latency),
                    Operation::Get => self.gets.record(latency),
                }
            }
            Err(wrong) => self.wrong(wrong),
        }
    }

    fn wrong(&mut self, wrong: Wrong) {
        let (counter, text) = match wrong {
            Wrong::Refused(text) => (&mut self.refused, text),
            Wrong::Unknown => (&mut self.unknown, "outcome unknown".to_string()),
            Wrong::TimedOut => (&mut self.timed_out, "timed out".to_string()),
            Wrong::Failed(text) => (&mut self.failed, text),
        };
        *counter += 1;
        self.first_error.get_or_insert(text);
    }

    /// Requests that took longer than this.
    #[cfg(test)]
    pub(super) fn count_above(&self, latency: Duration) -> u64 {
        let micros = latency.as_micros() as u64;
        let above = |latencies: &Latencies| latencies.0.count_between(micros, LATENCY_MAX.as_micros() as u64);
        above(&self.puts) + above(&self.gets)
    }

    /// Requests answered so far.
    pub(super) fn answered(&self) -> u64 {
        self.puts.0.len() + self.gets.0.len()
    }
}

/// The whole result.
pub(super) struct Report {
    pub(super) plan: Plan,
    pub(super) connections: usize,
    /// How long was measured.
    pub(super) measured: Duration,
    /// CPU time of this process while it measured, user and system.
    pub(super) cpu: Duration,
    /// Open loop: requests that were due and never sent, because all clients were waiting.
    pub(super) unsent: u64,
    pub(super) recorder: Recorder,
    pub(super) first_error: Option<String>,
}

impl Report {
    pub(super) fn answered(&self) -> u64 {
        self.recorder.answered()
    }

    fn per_second(&self) -> f64 {
        self.answered() as f64 / self.measured.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn cpu_micros_per_operation(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / (self.answered().max(1) as f64)
    }

    fn rows(&self) -> impl Iterator<Item = (&'static str, &Latencies)> {
        let rows = [("put", &self.recorder.puts), ("get", &self.recorder.gets)];
        rows.into_iter().filter(|(_, latencies)| !latencies.0.is_empty())
    }

    pub(super) fn render(&self, format: Format) -> String {
        match format {
            Format::Table => self.text(),
            Format::Json => json_list("BenchResultList", vec![self.json()]),
        }
    }

    fn text(&self) -> String {
        let (plan, recorder) = (&self.plan, &self.recorder);
        let mut lines = vec![format!(
            "{} over {}, {} clients on {} connections, {}, {} keys, values of {} bytes",
            plan.mix,
            api(plan.api),
            plan.clients,
            self.connections,
            plan.rate
                .map_or("closed loop".to_string(), |rate| format!("open loop at {rate}/s")),
            plan.keys,
            plan.value_size,
        )];
        let seconds = self.measured.as_secs_f64();
        let (answered, per_second) = (self.answered(), self.per_second());
        lines.push(format!(
            "{answered} operations in {seconds:.2} s: {per_second:.0} ops/s"
        ));
        lines.push(self.latency_table());
        lines.push(format!(
            "errors: refused {}, unknown {}, timed out {}, failed {}; gets of absent keys {}; due but unsent {}",
            recorder.refused,
            recorder.unknown,
            recorder.timed_out,
            recorder.failed,
            recorder.misses,
            self.unsent
        ));
        if let Some(first) = &self.first_error {
            lines.push(format!("first error: {first}"));
        }
        let (cpu, each) = (self.cpu.as_secs_f64(), self.cpu_micros_per_operation());
        lines.push(format!(
            "cpu of this process: {cpu:.2} s, {each:.2} us per operation"
        ));
        lines.join("\n")
    }

    fn latency_table(&self) -> String {
        let names = ["us", "count", "p50", "p90", "p99", "p99.9", "max"];
        let columns = names.map(|name| (name, if name == "us" { Align::Left } else { Align::Right }));
        let cells = |(name, latencies): (&str, &Latencies)| {
            let numbers = [latencies.0.len()].into_iter().chain(latencies.quantiles());
            [name.to_string()]
                .into_iter()
                .chain(numbers.map(|number| number.to_string()))
                .collect()
        };
        table(&columns, self.rows().map(cells).collect())
    }

    fn json(&self) -> Value {
        let (plan, recorder) = (&self.plan, &self.recorder);
        let latency = |(name, latencies): (&'static str, &Latencies)| {
            let [p50, p90, p99, p999, max] = latencies.quantiles();
            let count = latencies.0.len();
            let mean = rounded(latencies.0.mean());
            let value = json!({
                "count": count, "mean": mean, "p50": p50, "p90": p90, "p99": p99, "p999": p999, "max": max
            });
            (name.to_string(), value)
        };
        json!({
            "api": api(plan.api),
            "mix": plan.mix.to_string(),
            "clients": plan.clients,
            "connections": self.connections,
            "rate": plan.rate,
            "keys": plan.keys,
            "valueBytes": plan.value_size,
            "seconds": rounded(self.measured.as_secs_f64()),
            "operations": self.answered(),
            "operationsPerSecond": rounded(self.per_second()),
            "latencyMicros": self.rows().map(latency).collect::<serde_json::Map<_, _>>(),
            "errors": {
                "refused": recorder.refused,
                "unknown": recorder.unknown,
                "timedOut": recorder.timed_out,
                "failed": recorder.failed,
            },
            "firstError": self.first_error,
            "misses": recorder.misses,
            "unsent": self.unsent,
            "cpuSeconds": rounded(self.cpu.as_secs_f64()),
            "cpuMicrosPerOperation": rounded(self.cpu_micros_per_operation()),
        })
    }
}

/// Three decimals: the rest is noise.
fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

fn api(api: Api) -> &'static str {
    match api {
        Api::Native => "native",
        Api::Resp => "resp",
    }
}

impl Recorder {
    /// The report of what was recorded.
    pub(super) fn into_report(mut self, plan: &Plan, connections: usize) -> Report {
        Report {
            plan: plan.clone(),
            connections,
            measured: Duration::ZERO,
            cpu: Duration::ZERO,
            unsent: 0,
            first_error: self.first_error.take(),
            recorder: self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::plan;
    use super::*;
    use crate::cli::tests::golden;

    #[test]
    fn reports_look_like_this() {
        let mut recorder = Recorder::new();
        for i in 1..=1000 {
            recorder.record(Operation::Put, Duration::from_micros(i), Ok(true));
        }
        recorder.record(Operation::Get, Duration::from_micros(90), Ok(false));
        recorder.record(Operation::Put, Duration::ZERO, Err(Wrong::Unknown));
        recorder.record(
            Operation::Put,
            Duration::ZERO,
            Err(Wrong::Refused("refused: why".to_string())),
        );
        let mut report = recorder.into_report(&plan("put=9,get=1"), 3);
        report.measured = Duration::from_millis(500);
        report.cpu = Duration::from_micros(2002);
        golden(
            "bench.txt",
            &[Format::Table, Format::Json]
                .map(|format| report.render(format))
                .join("\n\n"),
        );
    }
}

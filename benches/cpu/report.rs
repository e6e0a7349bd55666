//! Timing, and the list of figures: printed as they come, written as JSON at the end.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub struct Report {
    words: Vec<String>,
    figures: Vec<Value>,
}

impl Report {
    pub fn new(words: Vec<String>) -> Report {
        println!("{:52} {:>9} {:12} {:>9} {:28} {:>6}", "", "value", "", "peer", "", "ratio");
        Report { words, figures: Vec::new() }
    }

    /// Whether the command line asks for a figure.
    pub fn wants(&self, name: &str) -> bool {
        self.words.iter().all(|word| name.contains(word.as_str()))
    }

    pub fn add(&mut self, name: &str, metric: &str, value: f64, reference: &str, reference_value: f64) {
        let ratio = value / reference_value;
        println!("{name:52} {value:9.2} {metric:12} {reference_value:9.2} {reference:28} {ratio:6.2}");
        self.figures.push(json!({
            "name": name, "metric": metric, "value": round(value), "reference": reference,
            "reference_value": round(reference_value), "ratio": round(ratio),
            "device": device(), "threads_available": std::thread::available_parallelism().map_or(1, |n| n.get()),
            "date": date(), "commit": std::env::var("NVFP4_COMMIT").unwrap_or_default(),
        }));
    }

    pub fn write(&self, path: &str) -> std::io::Result<()> {
        let lines: Vec<String> = self.figures.iter().map(|f| format!(" {f}")).collect();
        std::fs::write(path, format!("[\n{}\n]\n", lines.join(",\n")))
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The processor's name.
fn device() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |key: &str| {
        let line = info.lines().find(|l| l.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    let name = field("model name").unwrap_or_else(|| std::env::consts::ARCH.into());
    match (field("model\t"), field("cpu family")) {
        (Some(model), Some(family)) => format!("{name} (family {family}, model {model})"),
        _ => name,
    }
}

fn date() -> String {
    let output = std::process::Command::new("date").arg("+%Y-%m-%d").output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string()).unwrap_or_default()
}

/// Median seconds of two bodies that take turns, so that a disturbance meets both. A turn is a pause, a call that is not
/// counted and a few that are: OpenBLAS's threads spin for a while after a call and would take a core from ours.
pub fn race(mut ours: impl FnMut(), mut peer: impl FnMut()) -> (f64, f64) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while a.len() < 9 || (start.elapsed().as_secs_f64() < 2.0 && a.len() < 300) {
        turn(&mut ours, &mut a);
        turn(&mut peer, &mut b);
    }
    (median(a), median(b))
}

fn turn(body: &mut impl FnMut(), samples: &mut Vec<f64>) {
    std::thread::sleep(Duration::from_millis(50));
    body();
    samples.extend((0..3).map(|_| time(body)));
}

fn time(body: &mut impl FnMut()) -> f64 {
    let begin = Instant::now();
    body();
    begin.elapsed().as_secs_f64()
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

//! Running a program and measuring it: wall time, processor time, peak memory.

use std::{
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::command::{Failure, line};

/// How often the peak memory of a running program is read.
const LOOK: Duration = Duration::from_millis(10);

/// What one run of a program took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// From start to end.
    pub(super) wall: Duration,
    /// User and system time, in steps of 10 ms. Zero where the system does not tell.
    pub(super) cpu: Duration,
    /// Peak resident memory in bytes, where the system tells.
    pub(super) peak: Option<u64>,
}

/// Runs a program to its end; it must succeed. Its output is dropped, its errors are shown.
pub(super) fn run(command: &mut Command) -> Result<Measured, Failure> {
    run_and_hear(command).map(|(measured, _)| measured)
}

/// Runs a program to its end; it must succeed. Returns its output, too; its errors are shown.
pub(super) fn run_and_hear(command: &mut Command) -> Result<(Measured, Vec<u8>), Failure> {
    let start_failed = |line: String| move |error| Failure::Start(line, error);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let cpu_before = children_cpu();
    let began = Instant::now();
    let child = command.spawn().map_err(start_failed(line(command)))?;
    let over = Arc::new(AtomicBool::new(false));
    let watch = watch_peak(&child, Arc::clone(&over));
    let output = child.wait_with_output().map_err(start_failed(line(command)))?;
    let wall = began.elapsed();
    over.store(true, Ordering::Relaxed);
    let peak = watch.join().ok().flatten();
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        return Err(Failure::Program(line(command)));
    }
    let cpu = children_cpu().saturating_sub(cpu_before);
    Ok((Measured { wall, cpu, peak }, output.stdout))
}

/// Reads a program's peak memory until it is over.
fn watch_peak(child: &Child, over: Arc<AtomicBool>) -> thread::JoinHandle<Option<u64>> {
    let status = format!("/proc/{}/status", child.id());
    thread::spawn(move || {
        let mut peak = None;
        while !over.load(Ordering::Relaxed) {
            peak = peak.max(std::fs::read_to_string(&status).ok().as_deref().and_then(peak_of));
            thread::sleep(LOOK);
        }
        peak
    })
}

fn peak_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Processor time of all children that have ended.
fn children_cpu() -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in parentheses; cutime and cstime are fields 16 and 17 of the whole.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: u64 = fields.skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    TICK * ticks as u32
}

/// Runs two things alternately, each `pairs` times, after one pair to warm up that does not
/// count. What disturbs the machine then disturbs both. Every other pair runs the second first:
/// what one leaves behind for the disk to do falls on the other as often.
pub(super) fn alternate<A, B>(
    pairs: usize,
    mut a: impl FnMut() -> Result<A, Failure>,
    mut b: impl FnMut() -> Result<B, Failure>,
) -> Result<Vec<(A, B)>, Failure> {
    a()?;
    b()?;
    let pair = |n: usize| {
        if n.is_multiple_of(2) {
            return Ok((a()?, b()?));
        }
        let second = b()?;
        Ok((a()?, second))
    };
    (0..pairs).map(pair).collect()
}

/// The middle of some figures.
pub(super) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => figures[n / 2],
        n => f64::midpoint(figures[n / 2 - 1], figures[n / 2]),
    }
}

/// The lowest and the highest of some figures.
pub(super) fn range(figures: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let widest = (f64::INFINITY, f64::NEG_INFINITY);
    figures.into_iter().fold(widest, |(low, high), figure| (low.min(figure), high.max(figure)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
    }

    #[test]
    fn peak_memory_is_read_in_bytes() {
        assert_eq!(peak_of("Name:\tx\nVmHWM:\t    12 kB\n"), Some(12 * 1024));
        assert_eq!(peak_of("Name:\tx\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_working_program_takes_processor_time_and_memory() {
        let burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 0.05";
        let measured = run(Command::new("sh").args(["-c", burn])).unwrap();
        assert!(measured.cpu > Duration::ZERO && measured.cpu <= measured.wall * 2);
        assert!(measured.peak.is_some_and(|peak| peak > 100_000));
        assert!(run(Command::new("sh").args(["-c", "exit 3"])).is_err());
    }
}

//! A job of several steps: kill it at any moment and start it again, and it skips the steps that are
//! done, recovers the one that was broken, and does the rest.

use std::{error::Error, fs, thread, time::Duration};

use piton::job::{Job, JobOptions, Ran};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let store = piton::open("sqlite:piton.db")?;
    let params = vec![("date".to_owned(), "2026-11-20".to_owned())];
    let mut job = Job::open_with(&store, "nightly", &JobOptions { params, ..Default::default() })?;
    let copied = job.step("customers", |step| {
        let first = step.position::<u64>()?.map_or(0, |last| last + 1);
        println!("attempt {} begins at customer {first}", step.attempt());
        for customer in first..2_000 {
            thread::sleep(Duration::from_millis(1)); // it is copied
            step.passed(&customer)?; // stored when the interval is over, and at the end
        }
        Ok(())
    })?;
    if copied == Ran::Before {
        println!("customers are skipped");
    }
    job.step("report", |step| {
        step.on_recover(|| {
            let _ = fs::remove_file("report.part"); // what an attempt that died has left
            Ok(())
        })?;
        fs::write("report.part", "2,000 customers\n")?;
        Ok(fs::rename("report.part", "report.txt")?)
    })?;
    job.step("mails", |step| {
        for region in ["north", "south"] {
            step.step(region, |_| Ok(fs::write(format!("{region}.sent"), "")?))?;
        }
        Ok(())
    })?;
    Ok(job.finish()?)
}

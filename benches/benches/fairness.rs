//! Mounts that share a channel. `fairness/getattr/{idle,beside-read,beside-write}` are small requests of
//! one mount while another takes all it can; `fairness/mounts/N` reads by N mounts at once, a MiB each.

use std::time::{Duration, Instant};

use benches::channel::DEFAULT_RING;
use benches::figures::{Setting, shape};
use benches::harness::pair::Coherence;
use benches::measure::{Load, Operation, Session, together};
use benches::record::percentile;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const MSIZE: u32 = 131_096;

fn fairness(criterion: &mut Criterion) {
    let setting = Setting::of_benches(env!("CARGO_BIN_EXE_qrexec-standin")).expect("the programs");
    let shape = shape(DEFAULT_RING, Duration::ZERO);
    let served = setting.served(&shape, 32 << 20, Coherence::Strict);
    let served = served.expect("a served folder");

    let mut group = criterion.benchmark_group("fairness/getattr");
    let mut small = served.session(MSIZE).expect("9P");
    let mut bulk = [served.session(1 << 20).expect("9P")];
    for (case, write) in
        [("idle", None), ("beside-read", Some(false)), ("beside-write", Some(true))]
    {
        let mut all = Vec::new();
        group.bench_function(format!("{case}/ours"), |b| {
            b.iter_custom(|count| {
                let mut times = || small.times(Operation::Getattr, count as usize);
                let times = match write {
                    None => times(),
                    Some(write) => {
                        together(&mut bulk, Load { write, depth: 4 }, times).map(|(_, times)| times)
                    }
                };
                let times = times.expect("answers");
                all.extend_from_slice(&times);
                Duration::from_secs_f64(times.iter().sum::<f64>() / 1e6)
            });
        });
        if !all.is_empty() {
            println!(
                "    p50 {:.1} us, p99 {:.1} us",
                percentile(&all, 0.5),
                percentile(&all, 0.99)
            );
        }
    }
    group.finish();

    let mut group = criterion.benchmark_group("fairness/mounts");
    group.sample_size(10);
    let mut sessions: Vec<Session> = Vec::new();
    for count in [1, 2, 4, 8, 16, 32, 64] {
        while sessions.len() < count {
            sessions.push(served.session(MSIZE).expect("9P"));
        }
        group.throughput(Throughput::Bytes((count as u64) << 20));
        group.bench_function(format!("{count}/ours"), |b| {
            b.iter_custom(|times| {
                let start = Instant::now();
                std::thread::scope(|scope| {
                    for session in &mut sessions {
                        scope.spawn(move || session.read(1, times << 20).expect("an answer"));
                    }
                });
                start.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, fairness);
criterion_main!(benches);

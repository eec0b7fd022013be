//! Small requests one after another, every one answered by the server (`--coherence strict`), against
//! diod directly on the same channel. Names are `latency/OPERATION/DELAY/WHO`; median and the slowest in
//! a hundred of all that were measured are printed behind criterion's own figures.

use std::time::Duration;

use benches::channel::DEFAULT_RING;
use benches::figures::{Setting, shape};
use benches::harness::pair::Coherence;
use benches::harness::peer::DIOD_MSIZE;
use benches::measure::Operation;
use benches::record::percentile;
use criterion::{Criterion, criterion_group, criterion_main};

fn latency(criterion: &mut Criterion) {
    let setting = Setting::of_benches(env!("CARGO_BIN_EXE_qrexec-standin")).expect("the programs");
    for delay in [0, 1] {
        let shape = shape(DEFAULT_RING, Duration::from_millis(delay));
        let served = setting.served(&shape, 1 << 20, Coherence::Strict);
        let served = served.expect("a served folder");
        let (_peer, mut diod) = served.diod().expect("diod");
        let mut ours = served.session(DIOD_MSIZE).expect("9P");
        for operation in Operation::ALL {
            let mut group = criterion.benchmark_group(format!("latency/{}", operation.name()));
            for (who, session) in [("ours", &mut ours), ("diod", &mut diod)] {
                let mut all = Vec::new();
                group.bench_function(format!("{delay}ms/{who}"), |b| {
                    b.iter_custom(|count| {
                        let times = session.times(operation, count as usize).expect("answers");
                        all.extend_from_slice(&times);
                        Duration::from_secs_f64(times.iter().sum::<f64>() / 1e6)
                    });
                });
                if !all.is_empty() {
                    let [p50, p99] = [0.5, 0.99].map(|q| percentile(&all, q));
                    println!("    p50 {p50:.1} us, p99 {p99:.1} us of {}", all.len());
                }
            }
            group.finish();
        }
    }
}

criterion_group!(benches, latency);
criterion_main!(benches);

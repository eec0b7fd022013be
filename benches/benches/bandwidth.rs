//! Sequential reads and writes over the whole path, by msize, requests in flight, ring and added round
//! trip; diod (whose msize is 64K at the most) directly on the same channel, and the bare channel.
//!
//! Names are `bandwidth/{read,write}/MSIZE/DEPTH/RING+DELAY/WHO`. Compare what stands beside each other in
//! one run; `figures` does so in pairs.

use std::time::Duration;

use benches::channel::{DEFAULT_RING, MAX_RING};
use benches::figures::{Setting, shape};
use benches::harness::pair::Coherence;
use benches::harness::peer::DIOD_MSIZE;
use benches::harness::raw::{Raw, Way};
use benches::measure::Session;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const BYTES: u64 = 8 << 20;
const FILE: u64 = 64 << 20;
const MSIZES: [u32; 7] =
    [16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, (512 << 10) + 24, 1 << 20];

fn bandwidth(criterion: &mut Criterion) {
    let setting = Setting::of_benches(env!("CARGO_BIN_EXE_qrexec-standin")).expect("the programs");
    for (ring, ring_name) in [(DEFAULT_RING, "64K"), (MAX_RING, "1M")] {
        for delay in [0, 1, 5] {
            let shape = shape(ring, Duration::from_millis(delay));
            let case = format!("ring-{ring_name}+{delay}ms");
            let served = setting.served(&shape, FILE, Coherence::Default);
            let served = served.expect("a served folder");
            let mut raw = Raw::start(&setting.programs, &shape).expect("a channel");
            let (_peer, mut diod) = served.diod().expect("diod");
            for way in [Way::Read, Way::Write] {
                let name = if way == Way::Read { "read" } else { "write" };
                let mut group = criterion.benchmark_group(format!("bandwidth/{name}"));
                group.sample_size(10).measurement_time(Duration::from_secs(3));
                group.warm_up_time(Duration::from_secs(1)).throughput(Throughput::Bytes(BYTES));
                group.bench_function(format!("{case}/raw"), |b| {
                    b.iter_custom(|count| raw.one_way(way, count * BYTES).expect("bytes"));
                });
                for depth in [1, 4] {
                    for msize in MSIZES {
                        let id = format!("{}K/{depth}/{case}/ours", msize >> 10);
                        let mut ours = None;
                        group.bench_function(id, |b| {
                            let ours =
                                ours.get_or_insert_with(|| served.session(msize).expect("9P"));
                            b.iter_custom(|count| transfer(ours, way, depth, count * BYTES));
                        });
                    }
                    let id = format!("{}K/{depth}/{case}/diod", DIOD_MSIZE >> 10);
                    group.bench_function(id, |b| {
                        b.iter_custom(|count| transfer(&mut diod, way, depth, count * BYTES));
                    });
                }
                group.finish();
            }
        }
    }
}

fn transfer(session: &mut Session, way: Way, depth: u16, bytes: u64) -> Duration {
    match way {
        Way::Read => session.read(depth, bytes),
        Way::Write => session.write(depth, bytes),
    }
    .expect("an answer")
}

criterion_group!(benches, bandwidth);
criterion_main!(benches);

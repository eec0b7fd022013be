//! What the modelled channel does with nobody but a reader and a writer at its ends: the most that
//! anything on it can do. Names are `channel/raw/{one-way,ping-pong}/RING`.

use std::time::Duration;

use benches::channel::{DEFAULT_RING, MAX_RING};
use benches::figures::{Setting, shape};
use benches::harness::raw::{Raw, Way};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const BYTES: u64 = 16 << 20;

fn channel(criterion: &mut Criterion) {
    let setting = Setting::of_benches(env!("CARGO_BIN_EXE_qrexec-standin")).expect("the programs");
    let mut group = criterion.benchmark_group("channel/raw");
    for (ring, name) in [(DEFAULT_RING, "64K"), (MAX_RING, "1M")] {
        let shape = shape(ring, Duration::ZERO);
        let mut raw = Raw::start(&setting.programs, &shape).expect("a channel");
        let mut relayed = Raw::with_relay(&setting.programs, &shape).expect("a channel");
        group.throughput(Throughput::Bytes(BYTES));
        for (case, raw, way) in
            [("read", &mut raw, Way::Read), ("read-and-a-bare-relay", &mut relayed, Way::Read)]
        {
            group.bench_function(format!("one-way/{name}/{case}"), |b| {
                b.iter_custom(|count| raw.one_way(way, count * BYTES).expect("bytes"));
            });
        }
        group.bench_function(format!("one-way/{name}/write"), |b| {
            b.iter_custom(|count| raw.one_way(Way::Write, count * BYTES).expect("bytes"));
        });
        group.throughput(Throughput::Elements(1));
        for size in [64, 4096] {
            group.bench_function(format!("ping-pong/{name}/{size}"), |b| {
                b.iter_custom(|count| {
                    let times = raw.ping_pong(size, count as usize).expect("bytes");
                    Duration::from_secs_f64(times.iter().sum::<f64>() / 1e6)
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, channel);
criterion_main!(benches);

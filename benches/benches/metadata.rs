//! Programs that ask much and move little, as v9fs asks for them one request after another
//! ([`benches::workload`]), against diod on the same channel. Names are `metadata/PROGRAM/DELAY/WHO`; each
//! run works on files that nobody has asked about yet.

use std::cell::Cell;
use std::time::Duration;

use benches::channel::DEFAULT_RING;
use benches::client9p::Client;
use benches::figures::{Replay, Setting, shape};
use benches::harness::pair::{Coherence, Pair};
use benches::harness::peer;
use benches::harness::scratch::Scratch;
use criterion::{Criterion, criterion_group, criterion_main};
use transport::id::Msize;

fn metadata(criterion: &mut Criterion) {
    let setting = Setting::of_benches(env!("CARGO_BIN_EXE_qrexec-standin")).expect("the programs");
    for delay in [0, 1] {
        let shape = shape(DEFAULT_RING, Duration::from_millis(delay));
        let scratch = Scratch::new(&setting.place).expect("a folder");
        let mut pair = Pair::new(&setting.programs, &shape).expect("a pair");
        let socket = pair.offer(scratch.path(), Coherence::Default).expect("a served folder");
        let msize = Msize::new(131_096).expect("an msize");
        let mut ours = pair.connect(&socket, msize).expect("9P");
        let (_peer, mut diod) =
            peer::diod(&setting.programs, &shape, scratch.path()).expect("diod");
        let number = Cell::new(0);
        for replay in Replay::ALL {
            let files = match replay {
                Replay::List | Replay::GitStatus => 1_000,
                Replay::Find => 10_000,
                Replay::Unpack => 5_000,
            };
            let mut group = criterion.benchmark_group(format!("metadata/{}", replay.name()));
            // A run is seconds long, and each is like the others.
            group.sample_size(10).warm_up_time(Duration::from_millis(1));
            group.measurement_time(Duration::from_millis(1));
            for (who, client) in [("ours", &mut ours), ("diod", &mut diod)] {
                group.bench_function(format!("{delay}ms/{who}"), |b| {
                    b.iter_custom(|count| {
                        (0..count).map(|_| once(replay, client, &scratch, &number, files)).sum()
                    });
                });
            }
            group.finish();
        }
    }
}

fn once(
    replay: Replay,
    client: &mut Client,
    scratch: &Scratch,
    number: &Cell<usize>,
    files: usize,
) -> Duration {
    let number = number.replace(number.get() + 1);
    replay.once(client, scratch, number, files).expect("answers").0
}

criterion_group!(benches, metadata);
criterion_main!(benches);

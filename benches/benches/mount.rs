//! Folders mounted with this machine's FUSE and used by ordinary programs: ours, sshfs on the same
//! channel, and the disk itself. Names are `mount/PROGRAM/WHO`. Where this build or this machine has no
//! FUSE, it says so and leaves ours out.

use std::time::Duration;

use benches::figures::{Mounts, Native, Setting};
use criterion::{Criterion, criterion_group, criterion_main};

fn mount(criterion: &mut Criterion) {
    let setting = Setting::of_benches(env!("CARGO_BIN_EXE_qrexec-standin")).expect("the programs");
    let mounts = match Mounts::new(&setting) {
        Ok(mounts) => mounts,
        Err(why) => return println!("mount: nothing to measure: {why:#}"),
    };
    let mut roots = vec![("disk", mounts.disk.as_path()), ("sshfs", mounts.sshfs.as_path())];
    match &mounts.ours {
        Ok(ours) => roots.push(("ours", ours)),
        Err(why) => println!("mount: ours is not measured: {why}"),
    }
    let mut number = 0;
    for native in Native::ALL {
        let mut group = criterion.benchmark_group(format!("mount/{}", native.name()));
        group.sample_size(10).warm_up_time(Duration::from_millis(1));
        group.measurement_time(Duration::from_millis(1));
        for (who, root) in &roots {
            group.bench_function(*who, |b| {
                b.iter_custom(|count| {
                    let mut time = Duration::ZERO;
                    for _ in 0..count {
                        number += 1;
                        time += mounts.once(native, root, number, &setting).expect("a run");
                    }
                    time
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, mount);
criterion_main!(benches);

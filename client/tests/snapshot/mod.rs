//! Texts that are compared with files of `tests/snapshots`. `SNAPSHOTS=update` in the environment writes them
//! anew; what has changed is then for whoever commits it to read.

use std::fs;
use std::path::Path;

/// Whether `text` is what the file `name` has.
#[track_caller]
pub fn compare(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    if std::env::var("SNAPSHOTS").is_ok_and(|what| what == "update") {
        fs::write(&path, text).unwrap();
    }
    let wanted = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        wanted == text,
        "{name} is to be\n{wanted}\nand is\n{text}\n(SNAPSHOTS=update takes it)"
    );
}

//! The folder that a call names, from either end: a qrexec argument and what a person wrote.
//!
//! One folder has one argument: what reads must write as it was read, and what is written must read
//! as the folder that it was. What is read can be opened: canonical, without `..` or NUL.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use policy::folder::{Folder, FolderPath};
use policy::service::{Call, MAX_SERVICE_LENGTH};

fn canonical(path: &FolderPath) {
    assert_eq!(path.as_bytes()[0], b'/');
    assert!(!path.as_bytes().contains(&0));
    assert!(path.as_bytes() == b"/" || !path.as_bytes().ends_with(b"/"));
    for part in path.components() {
        assert!(!matches!(part, b"" | b"." | b"..") && !part.contains(&b'/'));
    }
}

fn check(folder: &Folder) {
    let argument = folder.to_argument();
    assert_eq!(argument.starts_with('-'), matches!(folder, Folder::Path(_)));
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte);
    assert!(argument.bytes().all(kept), "qrexec would change {argument:?}");
    assert_eq!(Folder::from_argument(argument.as_bytes()).as_ref(), Ok(folder));
    if let Folder::Path(path) = folder {
        canonical(path);
        // What a qube sees on a terminal is printable, whatever the bytes are.
        assert!(folder.to_string().chars().all(|c| !c.is_control()));
    }
    for read_only in [false, true] {
        if let Ok(service) = folder.service_with_argument(read_only) {
            assert!(service.len() <= MAX_SERVICE_LENGTH);
            let call = Call::parse(service.as_bytes()).expect("what is called is understood");
            assert_eq!((&call.folder, call.read_only), (folder, read_only));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(folder) = Folder::from_argument(data) {
        assert_eq!(folder.to_argument().as_bytes(), data);
        check(&folder);
    }
    if let Ok(folder) = Folder::parse(OsStr::from_bytes(data)) {
        check(&folder);
        let again = Folder::parse(OsStr::from_bytes(folder.as_bytes()));
        assert_eq!(again, Ok(folder), "canonical spelling is a fixed point");
    }
    if let Ok(call) = Call::parse(data) {
        check(&call.folder);
    }
});

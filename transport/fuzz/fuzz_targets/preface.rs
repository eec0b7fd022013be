//! The preface readers of both ends: any bytes, in any cut, behind any noise.
//!
//! A cut must change nothing, what is read must be written as it was understood, and what is not a
//! preface must be refused with bounded effort. The first byte of an input says how it is cut.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use transport::mux::Reason;
use transport::mux::preface::{Answer, ClientHello, Preface, PrefaceError, PrefaceReader};

/// What a reader makes of a stream in pieces of at most `step` bytes, and what follows the preface.
fn read<P: Preface>(stream: &Bytes, step: usize) -> Result<Option<(P, Vec<u8>)>, PrefaceError> {
    let mut reader = PrefaceReader::<P>::default();
    for at in (0..stream.len()).step_by(step) {
        let end = stream.len().min(at + step);
        let fed = reader.feed(stream.slice(at..end))?;
        assert!(reader.noise().len() <= 256 && reader.has_begun());
        if let Some((preface, rest)) = fed {
            return Ok(Some((preface, [&rest, &stream[end..]].concat())));
        }
    }
    assert!(matches!(reader.ended(), PrefaceError::Ended(bytes) if bytes == stream.len()));
    Ok(None)
}

fn check<P: Preface + PartialEq + std::fmt::Debug>(
    stream: &Bytes,
    step: usize,
    same: fn(&P) -> bool,
) {
    let whole = read::<P>(stream, stream.len().max(1));
    assert_eq!(read::<P>(stream, step), whole);
    if let Err(error) = &whole {
        assert!(!error.reason().text.is_empty());
    }
    if let Ok(Some((preface, _))) = whole {
        let back = read::<P>(&preface.encode(), step);
        assert!(!same(&preface) || back == Ok(Some((preface, Vec::new()))));
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&how, stream)) = data.split_first() else { return };
    let stream = Bytes::copy_from_slice(stream);
    let step = 1 + usize::from(how);
    check::<ClientHello>(&stream, step, |_| true);
    // A text that was not UTF-8 may have grown beyond what travels.
    check::<Answer>(&stream, step, |answer| match answer {
        Answer::Taken(_) => true,
        Answer::Refused(reason) => reason.text.len() <= Reason::MAX_TEXT,
    });
});

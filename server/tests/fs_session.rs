//! What ends a session of the embedded file server.

#![allow(clippy::unwrap_used)] // Also in the helpers of tests.

mod fs_client;

use bytes::Bytes;
use fs_client::Client;
use transport::ninep::Packet;

#[test]
fn what_is_no_9p_ends_the_session_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::of(dir.path());
    let words = |bytes: &'static [u8]| {
        client.session.submit(Packet::whole(Bytes::from_static(bytes))).unwrap_err().to_string()
    };
    assert_eq!(
        words(&[7, 0, 0, 0, 1, 0, 0]),
        "not a 9P message: message type 1 is not one of 9P2000.L here"
    );
    assert_eq!(words(&[1, 0]), "not a 9P message: message ends inside a field");
    assert!(words(&[9, 0, 0, 0, 120, 0, 0]).contains("says 9 bytes and has 7"));
    assert!(words(&[255, 255, 255, 127, 120, 0, 0]).contains("larger than msize"));
}

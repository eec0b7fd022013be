//! 9P's framer and decoder: any bytes, in any cut.
//!
//! A cut must change nothing, what decodes must encode to the same bytes, and nothing may panic. The
//! first byte of an input says how it is cut and which msize holds; the rest is the stream.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use transport::ninep::codec::Reader;
use transport::ninep::framer::Assembler;
use transport::ninep::message::{Entry, OrZero};
use transport::ninep::{DecodeError, Framer, Packet, Pieces, Rmessage, Tmessage};

/// Everything that a framer makes of a stream cut into pieces of at most `step` bytes.
fn packets(stream: &Bytes, max: u32, step: usize) -> (Vec<Packet>, Option<DecodeError>, bool) {
    let (mut framer, mut assembler) = (Framer::new(max), Assembler::default());
    let mut packets = Vec::new();
    for at in (0..stream.len()).step_by(step) {
        framer.push(stream.slice(at..stream.len().min(at + step)));
        loop {
            match framer.poll() {
                Ok(Some(item)) => packets.extend(assembler.push(item)),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(framer.poll(), Err(error), "once broken, always broken");
                    return (packets, Some(error), false);
                }
            }
        }
        assert!(framer.buffered() <= max as usize, "held beyond a message");
    }
    (packets, None, framer.is_between())
}

/// What decodes encodes to what it was. A `Tfsync` of older kernels lacks a field, and gets it.
fn decode(packet: &Packet) {
    if let Ok((tag, message)) = Tmessage::decode(packet) {
        let back = message.with_body(tag, packet.body.to_vec());
        if !matches!(message, Tmessage::Tfsync { datasync: OrZero(0), .. }) {
            assert_eq!(back.to_vec(), packet.to_vec());
        }
    }
    if let Ok((tag, message)) = Rmessage::decode(packet) {
        assert_eq!(message.with_body(tag, packet.body.to_vec()).to_vec(), packet.to_vec());
        if let Rmessage::Rreaddir { .. } = message {
            let entries = packet.body.concat();
            let mut reader = Reader::new(&entries);
            while reader.field::<Entry<'_>>().is_ok() {}
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&how, stream)) = data.split_first() else { return };
    let max = if how & 0x80 == 0 { 8192 } else { 4096 };
    let step = 1 + usize::from(how & 0x7f);
    let stream = Bytes::copy_from_slice(stream);

    let whole = packets(&stream, max, stream.len().max(1));
    let cut = packets(&stream, max, step);
    let bytes = |packets: &[Packet]| packets.iter().map(Packet::to_vec).collect::<Vec<_>>();
    assert_eq!(bytes(&whole.0), bytes(&cut.0));
    assert_eq!((whole.1, whole.2), (cut.1, cut.2));
    whole.0.iter().chain(&cut.0).for_each(decode);

    // A packet whose head and payload part where no framer would part them.
    let at = step.min(stream.len());
    decode(&Packet { head: stream.slice(..at), body: Pieces::from(vec![stream.slice(at..)]) });
    decode(&Packet::whole(stream));
});

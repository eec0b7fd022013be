//! What the client end and the server end compute for a message, without any I/O: the 9P codec, the
//! client end's session, and the multiplexer. What this takes is the least that a message can cost.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use transport::id::{Fid, Msize, Tag};
use transport::mux::preface::{Capabilities, ClientHello, Role};
use transport::mux::{Authorisation, Class, Config, Connection, Event, Open, Opened, Side};
use transport::ninep::message::{Attributes, Names, Qid, QidKind, VERSION, attr};
use transport::ninep::{Packet, Rmessage, Tmessage};
use transport::session::Session;

const NOW: Duration = Duration::ZERO;
const QID: Qid = Qid { kind: QidKind::DIR, version: 1, path: 1 };

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let names = Names::new(&[b"usr", b"share", b"doc"]).expect("three names");
    let walk = Tmessage::Twalk { fid: Fid(1), newfid: Fid(2), names }.encode(Tag(1));
    group.bench_function("decode/Twalk", |b| b.iter(|| Tmessage::decode(black_box(&walk))));
    let reply =
        Rmessage::Rgetattr { valid: attr::BASIC, qid: QID, attributes: Attributes::default() };
    group.bench_function("encode/Rgetattr", |b| b.iter(|| black_box(&reply).encode(Tag(1))));
    group.finish();
}

/// A getattr through the client end's session: request and reply, tags and fids changed.
fn session(criterion: &mut Criterion) {
    let mut session = Session::new(Msize::MAX);
    let version = Tmessage::Tversion { msize: 1 << 20, version: VERSION }.encode(Tag::NONE);
    session.handle_request(NOW, &version.head, 0).expect("a version");
    let version = Rmessage::Rversion { msize: 1 << 20, version: VERSION }.encode(Tag::NONE);
    session.handle_reply(&version.head, 0).expect("its reply");
    let (fid, afid) = (Fid(0), Fid::NONE);
    let attach = Tmessage::Tattach { fid, afid, uname: b"", aname: b"", n_uname: 0 };
    session.handle_request(NOW, &attach.encode(Tag(0)).head, 0).expect("an attach");
    session.handle_reply(&Rmessage::Rattach { qid: QID }.encode(Tag(0)).head, 0).expect("a root");
    let request = Tmessage::Tgetattr { fid, mask: attr::BASIC }.encode(Tag(0));
    let attributes = Attributes::default();
    let reply = Rmessage::Rgetattr { valid: attr::BASIC, qid: QID, attributes }.encode(Tag(0));
    criterion.bench_function("session/getattr", |b| {
        b.iter(|| {
            let request = session.handle_request(NOW, black_box(&request.head), 0);
            (request, session.handle_reply(black_box(&reply.head), 0))
        });
    });
}

/// A message of `size` bytes from one multiplexer to another.
fn mux(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mux");
    for size in [64, 4096, 65_520, 1 << 20] {
        let mut client = Connection::new(Side::Client, Config::default());
        let mut server = Connection::new(Side::Server, Config::default());
        let capabilities = Capabilities::OURS;
        let hello = ClientHello { capabilities, limits: client.limits(), role: Role::Channel };
        server.establish(NOW, &hello.limits);
        client.establish(NOW, &server.limits());
        let open = Open { authorisation: Authorisation::Own, msize: 1 << 20, flags: 0 };
        let stream = client.open(open).expect("a stream");
        carry(&mut client, &mut server);
        server.accept(stream, Opened { msize: 1 << 20 });
        carry(&mut server, &mut client);
        let message = Packet::whole(vec![0; size]).head;
        let class = if size > 8192 { Class::Bulk } else { Class::Small };
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("message/{size}"), |b| {
            b.iter(|| {
                client.start(stream, class, size as u32).expect("room");
                client.extend(stream, message.clone()).expect("room");
                while client.queued(stream) > 0 {
                    carry(&mut client, &mut server);
                    carry(&mut server, &mut client);
                }
            });
        });
    }
    group.finish();
}

/// Moves what waits from one end to the other, which passes it on at once.
fn carry(from: &mut Connection, to: &mut Connection) {
    let mut pieces: Vec<Bytes> = Vec::new();
    from.poll_transmit(NOW, 1 << 20, &mut pieces);
    for piece in pieces {
        to.handle_input(NOW, piece).expect("frames");
    }
    while let Some(event) = to.poll_event() {
        match event {
            Event::Message { stream, data } => to.consumed(stream, data.len() as u32),
            Event::More { stream, data } => to.consumed(stream, data.len() as u32),
            _ => {}
        }
    }
}

criterion_group!(benches, codec, session, mux);
criterion_main!(benches);

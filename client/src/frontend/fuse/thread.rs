//! A mount's own thread in the channel daemon.
//!
//! It attaches first, so that a folder that cannot be had is known before anything is mounted; then it
//! waits for the descriptor of the mount that the command line makes, and serves it until it has gone.
//! When it ends, for whatever reason, its end of the 9P socket closes, and with it the stream.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use transport::id::Msize;

use super::device::Device;
use super::idmap::{IdMap, Wish};
use super::lock::Owners;
use super::mount::Mount;
use super::ninep::Client;
use super::node::Nodes;

/// What is wanted of a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Whose files they are to appear to be.
    pub idmap: Wish,
    /// How long the kernel may believe what it was told.
    pub lifetime: Duration,
}

/// A mount's thread, from outside. It ends where this is dropped before a descriptor has been given.
pub struct Serving {
    /// Whether the server has given its folder.
    pub attached: oneshot::Receiver<Result<(), Errno>>,
    /// Takes the mount's descriptor.
    pub device: oneshot::Sender<OwnedFd>,
}

/// Starts a thread that speaks 9P over `socket`, whose other end takes messages of at most `limit`.
pub fn start(socket: OwnedFd, limit: Msize, settings: Settings) -> std::io::Result<Serving> {
    let (tell, attached) = oneshot::channel();
    let (device, given) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("fuse".into()).spawn(move || {
        let tasks = tokio::task::LocalSet::new();
        tasks.block_on(&runtime, async move {
            let client = Client::new(limit);
            let mount = async {
                let result = serve(&client, settings, tell, given).await;
                if let Err(error) = result {
                    eprintln!("a FUSE mount has ended: {error}");
                }
            };
            // The mount goes on without its server, and says EIO.
            let running = tokio::task::spawn_local({
                let client = std::rc::Rc::clone(&client);
                async move { client.run(socket).await }
            });
            mount.await;
            client.finish();
            let _ = running.await;
        });
    })?;
    Ok(Serving { attached, device })
}

async fn serve(
    client: &std::rc::Rc<Client>,
    settings: Settings,
    tell: oneshot::Sender<Result<(), Errno>>,
    given: oneshot::Receiver<OwnedFd>,
) -> std::io::Result<()> {
    let attached = client.attach().await.and_then(|(root, qid, attr)| {
        // A file cannot be mounted on.
        if attr.is_dir() { Ok((root, qid, attr)) } else { Err(Errno::NOTDIR) }
    });
    let (root, qid, attr) = match attached {
        Ok(attached) => attached,
        Err(errno) => {
            let _ = tell.send(Err(errno));
            return Ok(());
        }
    };
    if tell.send(Ok(())).is_err() {
        return Ok(());
    }
    let Ok(device) = given.await else { return Ok(()) };
    let idmap = IdMap::new(settings.idmap, attr.attributes.uid, attr.attributes.gid);
    let nodes = Nodes::new(root, qid, &attr);
    let owners = Owners::new(unlike_any_other()?);
    let mount = Mount::new(std::rc::Rc::clone(client), nodes, owners, idmap, settings.lifetime);
    mount.serve(Device::new(device)?).await
}

/// A name for this mount's locks.
fn unlike_any_other() -> std::io::Result<String> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("qvm-{:016x}", u64::from_le_bytes(random)))
}

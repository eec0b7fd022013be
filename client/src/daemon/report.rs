//! What the daemon tells of itself, for `--list`: its channels and its mounts, as they are at that moment.

use std::rc::Rc;

use transport::stats::RoundTrips;

use super::channel::{Channel, Stage};
use super::control::{ChannelReport, Mount};
use super::{Daemon, qube_name};

impl Daemon {
    /// The channels of the mounts that there are, and the one that is being made.
    pub(super) fn reports(&self) -> Vec<ChannelReport> {
        let mut channels: Vec<Rc<Channel>> = Vec::new();
        let current = self.current.borrow();
        let mounts = self.mounts.borrow();
        for channel in mounts.values().map(|mount| &mount.channel).chain(current.as_ref()) {
            if !channels.iter().any(|known| Rc::ptr_eq(known, channel)) {
                channels.push(Rc::clone(channel));
            }
        }
        if channels.is_empty() {
            return vec![self.report(None)];
        }
        channels.iter().map(|channel| self.report(Some(channel))).collect()
    }

    /// The daemon itself, and a channel of its.
    fn report(&self, channel: Option<&Rc<Channel>>) -> ChannelReport {
        let (sent, received) = channel.map_or((0, 0), |channel| channel.bytes());
        let stage = channel.map(|channel| channel.stage.borrow().clone());
        let target = &self.pair.target;
        let (state, qube) = match (&stage, channel) {
            (Some(Stage::Established(_)), Some(channel)) => ("ok", qube_name(channel, target)),
            (Some(Stage::Ended(_)), _) => ("lost", String::new()),
            (None, _) | (_, None) => ("none", String::new()),
            (Some(_), _) => ("calling", String::new()),
        };
        let booked = self.mounts.borrow();
        let carried = booked.values().filter(|mount| {
            channel.is_some_and(|channel| Rc::ptr_eq(channel, &mount.channel))
                && mount.mounted.borrow().is_some()
        });
        let alive = channel.filter(|channel| channel.is_alive());
        ChannelReport {
            server: target.clone(),
            qube,
            via: self.pair.via.to_string(),
            daemon: std::process::id(),
            process: alive.and_then(|channel| channel.process),
            mounts: carried.count(),
            age: channel.map_or(0, |channel| channel.since.elapsed().as_millis() as u64),
            sent,
            received,
            state: state.to_owned(),
            why: channel.and_then(|channel| channel.why_lost()),
            log: self.log.clone(),
        }
    }

    /// The mounts that there are.
    pub(super) fn list(&self) -> Vec<Mount> {
        let booked = self.mounts.borrow();
        let mounts = booked.values().filter_map(|mount| {
            let mounted = mount.mounted.borrow().clone()?;
            let readings: Vec<_> = mount.stats.borrow().iter().map(|stats| stats.read()).collect();
            let mut trips = RoundTrips::default();
            mount.stats.borrow().iter().for_each(|stats| trips.add(&stats.round_trips()));
            let percentile = |percent| Some(trips.percentile(percent)?.as_micros() as u64);
            Some(Mount {
                server: self.pair.target.clone(),
                qube: mount.qube.clone(),
                folder: mount.folder.clone(),
                mount_point: mounted.mount_point,
                front_end: mounted.front_end,
                msize: readings.iter().map(|reading| reading.msize).max().unwrap_or(0),
                read_only: mount.read_only,
                age: mount.since.elapsed().as_secs(),
                sent: readings.iter().map(|reading| reading.sent).sum(),
                received: readings.iter().map(|reading| reading.received).sum(),
                round_trips: trips.count(),
                answered_here: readings.iter().map(|reading| reading.here).sum(),
                in_flight: readings.iter().map(|reading| reading.in_flight).sum(),
                p50: percentile(50),
                p99: percentile(99),
                lost: mount.channel.why_stream_lost(mount.stream),
            })
        });
        mounts.collect()
    }
}

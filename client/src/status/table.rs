//! The list as a table for people: mounts first, then channels. Some 100 columns where names are short.

use std::io::Write;

use policy::printable;

use super::Look;

/// Writes it. With `verbose` the logs' places too. Errors are those of writing.
pub fn print(look: &Look, verbose: bool, to: &mut impl Write) -> std::io::Result<()> {
    let heads = [
        "SERVER",
        "FOLDER",
        "MOUNTPOINT",
        "BY",
        "MSIZE",
        "RW",
        "AGE",
        "SENT",
        "RECV",
        "REQ",
        "P50",
        "P99",
        "STATE",
    ];
    let mut mounts = vec![heads.map(String::from)];
    mounts.extend(look.mounts.iter().map(|mount| {
        [
            server(&mount.server, &mount.qube),
            shown(mount.folder.as_bytes()),
            shown(&mount.mount_point),
            shown(mount.front_end.as_bytes()),
            if mount.msize == 0 { "-".to_owned() } else { mount.msize.to_string() },
            if mount.read_only { "ro" } else { "rw" }.to_owned(),
            age(mount.age),
            bytes(mount.sent),
            bytes(mount.received),
            mount.in_flight.to_string(),
            mount.p50.map_or_else(|| "-".to_owned(), time),
            mount.p99.map_or_else(|| "-".to_owned(), time),
            match &mount.lost {
                None => "ok".to_owned(),
                Some(why) => format!("lost: {}", shown(why.as_bytes())),
            },
        ]
    }));
    rows(&mounts, to)?;
    if look.channels.is_empty() {
        return Ok(());
    }
    writeln!(to)?;
    let heads =
        ["CHANNEL", "VIA", "PROCESS", "DAEMON", "MOUNTS", "AGE", "SENT/S", "RECV/S", "STATE"];
    let mut channels = vec![heads.map(String::from)];
    channels.extend(look.channels.iter().map(|rated| {
        let report = &rated.report;
        let state = shown(report.state.as_bytes());
        [
            server(&report.server, &report.qube),
            shown(report.via.as_bytes()),
            report.process.map_or_else(|| "-".to_owned(), |process| process.to_string()),
            report.daemon.to_string(),
            rated.report.mounts.to_string(),
            age(report.age / 1000),
            bytes(rated.sent_rate),
            bytes(rated.received_rate),
            match &report.why {
                None => state,
                Some(why) => format!("{state}: {}", shown(why.as_bytes())),
            },
        ]
    }));
    rows(&channels, to)?;
    if verbose {
        writeln!(to)?;
        for rated in &look.channels {
            let report = &rated.report;
            let server = shown(report.server.as_bytes());
            writeln!(to, "log of {server}: {}", shown(report.log.as_bytes()))?;
        }
    }
    Ok(())
}

/// Rows with columns of one width; the last is as long as it is.
fn rows<const N: usize>(rows: &[[String; N]], to: &mut impl Write) -> std::io::Result<()> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        writeln!(to, "{}", line.trim_end())?;
    }
    Ok(())
}

fn shown(bytes: &[u8]) -> String {
    printable(bytes).to_string()
}

/// The name that was asked for, and the qube's own where it is another.
fn server(asked: &str, qube: &str) -> String {
    let name = shown(asked.as_bytes());
    if qube.is_empty() || qube == asked {
        name
    } else {
        format!("{name} ({})", shown(qube.as_bytes()))
    }
}

/// A number of bytes in at most five characters.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["", "K", "M", "G", "T", "P", "E"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit > 0 && value < 9.95 {
        format!("{value:.1}{}", UNITS[unit])
    } else {
        format!("{value:.0}{}", UNITS[unit])
    }
}

/// Microseconds, in at most five characters.
fn time(micros: u64) -> String {
    let (value, unit) = match micros {
        0..1_000 => return format!("{micros}us"),
        1_000..1_000_000 => (micros as f64 / 1e3, "ms"),
        _ => (micros as f64 / 1e6, "s"),
    };
    if value < 9.95 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

/// Seconds, in at most five characters for a quarter of a year.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h{:02}", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(verbose: bool) -> String {
        let mut text = Vec::new();
        print(&super::super::tests::example(), verbose, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_list_is_escaped_and_has_a_place_for_everything() {
        crate::snapshot::compare("list-example.txt", &table(true));
        assert!(!table(false).contains("journal"));
    }

    #[test]
    fn a_mount_with_usual_names_fits_a_hundred_columns() {
        let mut look = super::super::tests::example();
        look.mounts.truncate(1);
        look.channels.truncate(1);
        let mut text = Vec::new();
        print(&look, false, &mut text).unwrap();
        for line in String::from_utf8(text).unwrap().lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }

    #[test]
    fn numbers_are_short() {
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.0K"),
            (10_200, "10K"),
            (1_048_000, "1.0M"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(bytes(count), text);
        }
        for (micros, text) in [
            (0, "0us"),
            (999, "999us"),
            (1_850, "1.9ms"),
            (214_000, "214ms"),
            (3_400_000, "3.4s"),
            (67_000_000, "67s"),
        ] {
            assert_eq!(time(micros), text);
        }
        for (seconds, text) in [(59, "59s"), (60, "1m"), (7_500, "2h05"), (100_000, "1d03")] {
            assert_eq!(age(seconds), text);
        }
    }
}

//! Measures what the design promises and writes the table: `make bench`.
//!
//! `figures run` writes `figures.md` and `figures.json`; `figures readme` puts the table of a run into the
//! README. Groups are those of [`benches::figures::GROUPS`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use benches::figures::{self, Effort, GROUPS, Setting};
use benches::harness::Programs;
use benches::record::{Machine, Record, SCHEMA};
use benches::report::{json, markdown, readme};
use clap::{Parser, Subcommand, ValueEnum};

/// Measure this build over a modelled channel, beside what it is compared with.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Measure, and write figures.md and figures.json
    Run {
        /// How much is done for each figure
        #[arg(long, value_enum, default_value_t = Size::Short)]
        effort: Size,
        /// Only these groups, with commas between
        #[arg(long, value_name = "NAMES", value_delimiter = ',')]
        only: Vec<String>,
        /// Where the files are written; target/bench if not given
        #[arg(long, value_name = "FOLDER")]
        out: Option<PathBuf>,
        /// Where the programs are; beside this one if not given
        #[arg(long, value_name = "FOLDER")]
        programs: Option<PathBuf>,
        /// Where folders to serve are made; beside the programs if not given
        #[arg(long, value_name = "FOLDER")]
        scratch: Option<PathBuf>,
    },
    /// Put the figures of a run into the README
    Readme {
        /// The figures
        #[arg(long, value_name = "FILE", default_value = "target/bench/figures.json")]
        figures: PathBuf,
        /// The README
        #[arg(long, value_name = "FILE", default_value = "README.md")]
        readme: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Size {
    /// As little as shows that it works
    Trial,
    /// Some minutes
    Short,
    /// As long as it takes to be sure
    Full,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Task::Run { effort, only, out, programs, scratch } => {
            run(effort, &only, out, programs, scratch)
        }
        Task::Readme { figures, readme } => update(&figures, &readme),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("figures: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(
    size: Size,
    only: &[String],
    out: Option<PathBuf>,
    programs: Option<PathBuf>,
    scratch: Option<PathBuf>,
) -> Result<()> {
    let effort = match size {
        Size::Trial => Effort::TRIAL,
        Size::Short => Effort::SHORT,
        Size::Full => Effort::FULL,
    };
    let programs = match programs {
        Some(folder) => folder,
        None => std::env::current_exe()?.parent().context("a program has a folder")?.to_owned(),
    };
    let place = scratch.unwrap_or_else(|| figures::place(&programs));
    let out = out.unwrap_or_else(|| programs.join("../bench"));
    let setting = Setting { programs: Programs::at(&programs)?, place, effort };
    let names: Vec<_> = GROUPS.iter().map(|group| group.0).collect();
    let unknown = only.iter().find(|only| !names.contains(&only.as_str()));
    ensure!(
        unknown.is_none(),
        "there is no group {}\nhint: there are {}",
        unknown.map_or("", String::as_str),
        names.join(", ")
    );

    let mut record = Record {
        schema: SCHEMA,
        machine: machine(),
        commit: commit(),
        date: said(Command::new("date").args(["-u", "+%F %H:%M"])).unwrap_or_default(),
        command: std::env::args().skip(1).fold("figures".into(), |line, word| line + " " + &word),
        seconds: 0.0,
        lines: Vec::new(),
        warnings: Vec::new(),
    };
    let busy = load();
    if busy > 0.5 {
        record
            .warnings
            .push(format!("the machine was not idle when this began (a load of {busy:.1})"));
    }
    let start = Instant::now();
    for group in GROUPS {
        if !only.is_empty() && !only.iter().any(|name| name == group.0) {
            continue;
        }
        eprint!("{:16}", group.0);
        let begun = Instant::now();
        record.lines.extend(figures::run(&setting, *group));
        eprintln!("{:6.1} s", begun.elapsed().as_secs_f64());
    }
    record.seconds = start.elapsed().as_secs_f64();
    record.warn_of_noise();
    write(&record, &out)
}

fn write(record: &Record, out: &Path) -> Result<()> {
    fs::create_dir_all(out)?;
    let out = out.canonicalize()?;
    let page = markdown::write(record);
    fs::write(out.join("figures.md"), &page)?;
    fs::write(out.join("figures.json"), json::write(record)?)?;
    print!("{page}");
    eprintln!("written: {} and figures.json", out.join("figures.md").display());
    Ok(())
}

fn update(figures: &Path, file: &Path) -> Result<()> {
    let shown = figures.display();
    let text = fs::read_to_string(figures)
        .with_context(|| format!("cannot read {shown}\nhint: make bench writes it"))?;
    let record = json::read(&text).with_context(|| format!("cannot use {shown}"))?;
    let old =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(fs::write(file, readme::update(&old, &record)?)?)
}

fn machine() -> Machine {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kib = memory.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    let uname = rustix::system::uname();
    Machine {
        cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "?".into()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: format!(
            "{} {}",
            uname.sysname().to_string_lossy(),
            uname.release().to_string_lossy()
        ),
        memory_mib: kib.unwrap_or(0) / 1024,
    }
}

/// The commit of the working directory, with a `+` where something in it is not committed.
fn commit() -> String {
    let hash = said(Command::new("git").args(["rev-parse", "--short", "HEAD"]));
    let changes = said(Command::new("git").args(["status", "--porcelain", "-uno"]));
    match (hash, changes) {
        (Some(hash), Some(changes)) if changes.is_empty() => hash,
        (Some(hash), _) => hash + "+",
        (None, _) => "unknown".into(),
    }
}

fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// Processes that wanted a processor in the last minute.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

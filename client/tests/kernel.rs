//! Tests with a real kernel's v9fs: each script of `tests/kernel/` runs inside user-mode Linux, a Linux
//! that boots as an ordinary process in seconds and sees this machine's files (package
//! `user-mode-linux`). Neither rights nor modules of this machine are needed.
//!
//! A script's functions `case_NAME` are the tests `SCRIPT::NAME`; a first argument filters them by a
//! part of that name. The script's line `#: memory=2048M seconds=300 modules=9p` says what it needs;
//! above its time limit the whole machine is killed. The rest of the boot is `tests/kernel/boot.sh`, what
//! scripts share is `tests/kernel/common.sh`.
//!
//! The cases that a script names in `diod=CASE,CASE` run once more as `SCRIPT_diod`, our programs with
//! `--backend diod`; what that lacks is ignored with the reason that the script gives for diod.
//!
//! `KERNEL_REFERENCE=diod` runs the scripts marked `reference=yes` over diod directly on a socketpair
//! instead of over this workspace's programs: what fails there too is v9fs's own doing.
//! `COHERENCE=TIME` is every mount's `--coherence` that has none of its own;
//! `KERNEL_JOBS=N` sets how many machines run at once (2), `KERNEL_PATIENCE=N` multiplies time limits.
//!
//! Left out: libtest's options other than `--list`, `--exact` and `--nocapture`; others are ignored.

#![allow(clippy::unwrap_used)] // a harness that cannot go on panics

use std::collections::{BTreeMap, VecDeque};
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

const UML: &str = "linux.uml";
/// What scripts start, from the folder of this build's programs.
const PROGRAMS: [&str; 3] = ["qvm-mount-folder", "qvm-folder-server", "qrexec-standin"];
/// What the machine prints before its own messages to this harness.
const MARK: &str = "@@ ";

/// One script, and which of its cases to run.
struct Script {
    name: String,
    path: PathBuf,
    memory: String,
    limit: Duration,
    modules: String,
    reference: bool,
    /// The file server that our own programs are to use.
    backend: String,
    cases: Vec<String>,
}

/// How one case ended.
#[derive(PartialEq)]
enum Verdict {
    Passed,
    Failed,
    /// With the reason: where another file server than ours cannot do it.
    Ignored(String),
}

struct Outcome {
    name: String,
    verdict: Verdict,
    output: String,
}

struct Options {
    filter: Option<String>,
    exact: bool,
    list: bool,
    nocapture: bool,
    reference: Option<String>,
    patience: u32,
    jobs: u32,
}

impl Options {
    fn new() -> Options {
        let number = |name| env::var(name).ok().and_then(|value| value.parse().ok());
        let arguments: Vec<String> = env::args().skip(1).collect();
        let has = |option: &str| arguments.iter().any(|argument| argument == option);
        Options {
            filter: arguments.iter().find(|argument| !argument.starts_with('-')).cloned(),
            exact: has("--exact"),
            list: has("--list"),
            nocapture: has("--nocapture"),
            reference: env::var("KERNEL_REFERENCE").ok().filter(|name| !name.is_empty()),
            patience: number("KERNEL_PATIENCE").unwrap_or(1),
            jobs: number("KERNEL_JOBS").unwrap_or(2),
        }
    }

    fn selects(&self, name: &str) -> bool {
        match &self.filter {
            Some(filter) if self.exact => name == filter,
            Some(filter) => name.contains(filter.as_str()),
            None => true,
        }
    }
}

fn main() -> ExitCode {
    let options = Options::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel");
    let scripts = scripts(&folder, &options);
    let count: usize = scripts.iter().map(|script| script.cases.len()).sum();
    if options.list {
        for script in &scripts {
            script.cases.iter().for_each(|case| println!("{}::{case}: test", script.name));
        }
        println!("\n{count} tests, 0 benchmarks");
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {count} tests in user-mode Linux");
    let start = Instant::now();
    let outcomes = match (count, missing(options.reference.is_some())) {
        (0, _) => Vec::new(),
        (_, Some(why)) => {
            eprintln!("error: {why}");
            return ExitCode::FAILURE;
        }
        (_, None) => run_all(scripts, &folder, Arc::new(options)),
    };
    report(&outcomes, start.elapsed())
}

/// What is not there that the tests need, and how to get it.
fn missing(reference: bool) -> Option<String> {
    let path = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&path).any(|folder| folder.join(UML).exists()) {
        return Some(format!("there is no {UML}: install Debian's user-mode-linux (`make tools`)"));
    }
    if reference {
        return None;
    }
    if !suites().join("pjdfstest").exists() {
        return Some(format!("there is no pjdfstest in {:?}: run .ci/install-suites", suites()));
    }
    let program = PROGRAMS.iter().find(|program| !programs().join(program).exists())?;
    Some(format!("there is no {program} in {:?}: run `cargo build --workspace --bins`", programs()))
}

/// The folder of this build's programs.
/// The tests of the v9fs front end, which need a kernel that has it: built beside this one.
fn v9fs() -> PathBuf {
    let here = env::current_exe().unwrap();
    let entries = fs::read_dir(here.parent().unwrap()).unwrap().flatten();
    let built = entries.filter(|entry| {
        let name = entry.file_name().into_string().unwrap_or_default();
        name.starts_with("v9fs-") && !name.contains('.')
    });
    let newest = built.max_by_key(|entry| entry.metadata().and_then(|data| data.modified()).ok());
    newest.expect("v9fs-* beside kernel-*: cargo test --no-run").path()
}

fn programs() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_qvm-mount-folder")).parent().unwrap()
}

/// Where the suites are installed that others wrote to try a file system with (`.ci/install-suites`).
fn suites() -> PathBuf {
    programs().join("../tools/bin")
}

/// All scripts with cases that the options select.
fn scripts(folder: &Path, options: &Options) -> Vec<Script> {
    let mut scripts = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = match path.extension() {
            Some(extension) if extension == "sh" => fs::read_to_string(&path).unwrap(),
            _ => continue,
        };
        let Some(needs) = text.lines().find_map(|line| line.strip_prefix("#: ")) else { continue };
        let needs: BTreeMap<&str, &str> =
            needs.split_whitespace().filter_map(|need| need.split_once('=')).collect();
        let need = |name: &str, default: &str| needs.get(name).unwrap_or(&default).to_string();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let with_diod = need("diod", "");
        for backend in ["embedded", "diod"] {
            // A reference run uses none of ours.
            if options.reference.is_some() && backend == "diod" {
                continue;
            }
            let diod = backend == "diod";
            let name = if diod { format!("{stem}_diod") } else { stem.to_owned() };
            let cases = text
                .lines()
                .filter_map(|line| line.strip_prefix("case_")?.split_once("()"))
                .map(|(case, _)| case.to_owned())
                .filter(|case| !diod || with_diod.split(',').any(|named| named == case))
                .filter(|case| options.selects(&format!("{name}::{case}")))
                .collect();
            let seconds: u64 = need("seconds", "300").parse().unwrap();
            let script = Script {
                memory: need("memory", "2048M"),
                limit: Duration::from_secs(seconds) * options.patience,
                modules: need("modules", "9p"),
                reference: need("reference", "no") == "yes",
                backend: backend.to_owned(),
                name,
                path: path.clone(),
                cases,
            };
            if !script.cases.is_empty() && (script.reference || options.reference.is_none()) {
                scripts.push(script);
            }
        }
    }
    // The longest first, so that none of them runs alone at the end.
    scripts.sort_by(|a, b| b.limit.cmp(&a.limit).then(a.name.cmp(&b.name)));
    scripts
}

fn run_all(scripts: Vec<Script>, folder: &Path, options: Arc<Options>) -> Vec<Outcome> {
    let queue = Mutex::new(VecDeque::from(scripts));
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                loop {
                    let Some(script) = queue.lock().unwrap().pop_front() else { break };
                    let done = run(&script, folder, &options);
                    outcomes.lock().unwrap().extend(done);
                }
            });
        }
    });
    outcomes.into_inner().unwrap()
}

/// Boots a machine for one script and follows what it prints.
fn run(script: &Script, folder: &Path, options: &Options) -> Vec<Outcome> {
    let scratch = tempfile::tempdir().unwrap();
    let init = scratch.path().join("init");
    fs::write(&init, init_script(script, folder, options)).unwrap();
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
    let mut machine = Machine::boot(&init, &script.memory);
    let deadline = Instant::now() + script.limit;

    let mut outcomes = Vec::new();
    let mut current = None;
    let mut output = String::new();
    let over = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = match machine.lines.recv_timeout(left) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => break format!("over {:?}: killed", script.limit),
            Err(RecvTimeoutError::Disconnected) => break "the machine stopped".to_owned(),
        };
        if options.nocapture {
            println!("[{}] {line}", script.name);
        }
        let Some(message) = line.strip_prefix(MARK) else {
            writeln!(output, "{line}").unwrap();
            continue;
        };
        let (word, rest) = message.split_once(' ').unwrap_or((message, ""));
        let verdict = match word {
            "begin" => {
                current = Some(rest.to_owned());
                output.clear();
                continue;
            }
            "ok" => Verdict::Passed,
            "failed" => Verdict::Failed,
            "ignored" => Verdict::Ignored(rest.to_owned()),
            _ => break "the machine ended".to_owned(),
        };
        if let Some(case) = current.take() {
            let name = format!("{}::{case}", script.name);
            announce(&name, &verdict, rest);
            outcomes.push(Outcome { name, verdict, output: std::mem::take(&mut output) });
        }
    };
    machine.stop();
    // What was not heard of has failed, the case that was running first.
    for case in &script.cases {
        let name = format!("{}::{case}", script.name);
        if outcomes.iter().all(|outcome| outcome.name != name) {
            announce(&name, &Verdict::Failed, "");
            let output = if current.as_ref().is_none_or(|current| current == case) {
                format!("{}{over}\n", std::mem::take(&mut output))
            } else {
                format!("not run: {over}\n")
            };
            outcomes.push(Outcome { name, verdict: Verdict::Failed, output });
        }
    }
    outcomes
}

fn announce(name: &str, verdict: &Verdict, rest: &str) {
    match verdict {
        Verdict::Passed => println!("test {name} ... ok ({rest})"),
        Verdict::Failed => println!("test {name} ... FAILED"),
        Verdict::Ignored(why) => println!("test {name} ... ignored, {why}"),
    }
}

fn report(outcomes: &[Outcome], took: Duration) -> ExitCode {
    let count = |verdict: fn(&Verdict) -> bool| {
        outcomes.iter().filter(|outcome| verdict(&outcome.verdict)).count()
    };
    let failed = count(|verdict| *verdict == Verdict::Failed);
    let ignored = count(|verdict| matches!(verdict, Verdict::Ignored(_)));
    if failed > 0 {
        println!("\nfailures:");
        for outcome in outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Failed) {
            println!("\n---- {} ----\n{}", outcome.name, outcome.output);
        }
    }
    println!(
        "\ntest result: {}. {} passed; {failed} failed; {ignored} ignored; 0 measured; 0 filtered \
         out; finished in {:.2}s\n",
        if failed == 0 { "ok" } else { "FAILED" },
        outcomes.len() - failed - ignored,
        took.as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The machine's first process: says what to run and goes on with `boot.sh`.
fn init_script(script: &Script, folder: &Path, options: &Options) -> String {
    let mut text = String::from("#!/bin/sh\n");
    let mut set = |name: &str, value: &str| {
        writeln!(text, "export {name}='{}'", value.replace('\'', r"'\''")).unwrap();
    };
    set("KERNEL_FOLDER", folder.to_str().unwrap());
    set("KERNEL_PROGRAMS", programs().to_str().unwrap());
    set("KERNEL_V9FS", v9fs().to_str().unwrap());
    set("KERNEL_SCRIPT", script.path.to_str().unwrap());
    set("KERNEL_CASES", &script.cases.join(" "));
    set("KERNEL_MODULES", &script.modules);
    set("KERNEL_BACKEND", &script.backend);
    set("KERNEL_SUITES", suites().to_str().unwrap());
    set("KERNEL_COHERENCE", &env::var("COHERENCE").unwrap_or_default());
    set("KERNEL_FSX_OPERATIONS", &env::var("FSX_OPERATIONS").unwrap_or_default());
    set("KERNEL_REFERENCE", options.reference.as_deref().unwrap_or(""));
    text + "exec /bin/bash \"$KERNEL_FOLDER/boot.sh\"\n"
}

/// A running user-mode Linux.
struct Machine {
    guard: Child,
    lines: mpsc::Receiver<String>,
}

/// Ends the machine when its stdin ends, so that none outlives a harness that is killed. User-mode Linux
/// makes itself a session with its helpers, which do not end when only its first process is killed.
const GUARD: &str = r#""$@" </dev/null & machine=$!
exec >/dev/null
read -r end
kill -KILL "-$machine"
kill -KILL "$machine""#;

/// What makes the machine's kernel run on any processor, built on first use.
fn xstate() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel/xstate.c");
        let (to, new) = (Path::new(env!("CARGO_TARGET_TMPDIR")), std::process::id());
        let (object, new) = (to.join("xstate.so"), to.join(format!("xstate.so.{new}")));
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]);
        assert!(compiler.arg(&new).arg(source).status().unwrap().success(), "{compiler:?}");
        // Another run may be using the one that is there.
        fs::rename(new, &object).unwrap();
        object
    })
}

impl Machine {
    fn boot(init: &Path, memory: &str) -> Machine {
        let mut guard = Command::new("/bin/sh")
            .args(["-c", GUARD, "sh", UML])
            .env("LD_PRELOAD", xstate())
            .arg(format!("mem={memory}"))
            .args(["rootfstype=hostfs", "rootflags=/", "ro", "con0=fd:0,fd:1", "con=null"])
            .args(["ssl=null", "quiet"])
            .arg(format!("init={}", init.display()))
            .arg(format!("uml_dir={}", init.parent().unwrap().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0) // Ctrl-C is the harness's, whose end is the machine's
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {UML}: {error}"));
        let mut console = BufReader::new(guard.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while console.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if sender.send(text).is_err() {
                    break;
                }
            }
        });
        Machine { guard, lines }
    }

    /// Kills what is left of it: the processes of the guest are processes of this machine.
    fn stop(&mut self) {
        drop(self.guard.stdin.take());
        self.guard.wait().unwrap();
    }
}

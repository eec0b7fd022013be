//! The man pages and the completions, as `make man` writes them: well-formed, and complete.
//!
//! Leaves out how they look, which is for people.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

#[path = "../examples/manual/completions.rs"]
mod completions;
#[path = "../examples/manual/man.rs"]
mod man;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn written() -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let all = man::pages().unwrap().into_iter().chain(completions::scripts());
    let paths = all.map(|(name, text)| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    });
    let paths = paths.collect();
    (folder, paths)
}

/// What a program says that finds nothing wrong: nothing.
fn says_nothing(program: &str, words: &[&str], path: &Path) {
    let mut command = Command::new(program);
    command.args(words).arg(path).env("LC_ALL", "C.UTF-8").env("MANWIDTH", "80");
    let output = command.stdout(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{program} {}: {said}", path.display());
}

#[test]
fn man_pages_are_well_formed() {
    let (_folder, paths) = written();
    let pages = || paths.iter().filter(|path| path.extension().unwrap().len() == 1);
    assert_eq!(pages().count(), 4);
    for path in pages() {
        says_nothing("groff", &["-ww", "-t", "-man", "-Tutf8", "-z"], path);
        says_nothing("man", &["--warnings", "-l"], path);
    }
}

#[test]
fn man_pages_have_every_option_and_exit_code() {
    let pages = man::pages().unwrap();
    let page = |name: &str| pages.iter().find(|(page, _)| page == name).unwrap().1.clone();
    let page_of = page("qvm-mount-folder.1");
    let command = <client::cli::Cli as clap::CommandFactory>::command();
    for arg in command.get_arguments() {
        let Some(long) = arg.get_long() else { continue };
        let option = format!("\\-\\-{}", long.replace('-', "\\-"));
        assert_eq!(page_of.contains(&option), !arg.is_hide_set(), "{option}");
    }
    for exit in client::exit::Exit::ALL {
        assert!(page_of.contains(&format!(".B {}\n", exit.code())), "{exit:?}");
    }
    let helper = page("mount.qvm.8").replace("\\0", " ").replace('\\', "");
    for name in client::options::names_of_all() {
        let word = |text: &str| {
            text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name)
        };
        assert!(word(&helper), "{name}");
    }
}

#[test]
fn completions_are_well_formed() {
    let (_folder, paths) = written();
    for path in &paths {
        match path.extension().unwrap().to_str().unwrap() {
            "bash" => says_nothing("bash", &["-n"], path),
            "zsh" => says_nothing("zsh", &["-n"], path),
            "fish" => says_nothing("fish", &["--no-execute"], path),
            _ => continue,
        }
        let text = fs::read_to_string(path).unwrap();
        // What is offered, not what could come before.
        for offered in
            [" --sloppy ", "'--sloppy[", "-l sloppy", " --daemon ", "'*--daemon", "-l daemon"]
        {
            assert!(!text.contains(offered), "{offered} in {}", path.display());
        }
    }
}

/// Completes a line in bash, as the Tab key does.
fn complete(script: &Path, state: &Path, words: &[&str]) -> Vec<String> {
    let program = Path::new(env!("CARGO_BIN_EXE_qvm-mount-folder")).parent().unwrap();
    let source = format!(
        "source '{}'; COMP_WORDS=(qvm-mount-folder \"$@\"); COMP_CWORD=$#\n\
         function=$(complete -p qvm-mount-folder); function=${{function#*-F }}\n\
         \"${{function%% *}}\" qvm-mount-folder \"${{@: -1}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display()
    );
    let output = Command::new("bash")
        .args(["--norc", "-c", &source, "bash"])
        .args(words)
        .current_dir(state)
        .env("XDG_STATE_HOME", state)
        .env_remove("SUDO_UID")
        .env("PATH", format!("{}:/usr/bin:/bin", program.display()))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_servers_options_and_mount_points() {
    let (folder, paths) = written();
    let script = paths.iter().find(|path| path.ends_with("qvm-mount-folder.bash")).unwrap();
    let state = folder.path();
    assert_eq!(complete(script, state, &[""]), [""; 0]);
    fs::create_dir(state.join("qubes-shared-folders")).unwrap();
    let recent = state.join("qubes-shared-folders/servers");
    fs::write(recent, "work\nvault\nwork-old\n$(touch ran)\n@default\n").unwrap();
    fs::create_dir(state.join("mine")).unwrap();
    let complete = |words: &[&str]| complete(script, state, words);
    assert_eq!(complete(&[""]), ["work", "vault", "work-old", "@default"]);
    assert_eq!(complete(&["wo"]), ["work", "work-old"]);
    assert_eq!(complete(&["--read-only", "--msize", "64K", "--via=local", "v"]), ["vault"]);
    assert_eq!(complete(&["--msize", "=", "64K", "v"]), ["vault"]);
    // The folder is in the other qube: nothing here is one.
    assert_eq!(complete(&["work", "m"]), [""; 0]);
    assert_eq!(complete(&["work", "/srv", "m"]), ["mine"]);
    assert_eq!(complete(&["--read"]), ["--read-only"]);
    assert_eq!(complete(&["work", "--uns"]), [""; 0]);
    assert!(complete(&["--cache", ""]).contains(&"readahead".to_owned()));
    assert!(!state.join("ran").exists());
}

//! The completions: clap's, and after them what it cannot know: the qubes that were mounted from.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

const COMMAND: &str = "qvm-mount-folder";

/// Every script and its file's name.
pub fn scripts() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut scripts =
            [client::cli::Cli::command(), server::cli::Cli::command()].map(|command| {
                let mut command = command;
                let name = command.get_name().to_owned();
                let hidden = command.get_arguments().filter(|arg| arg.is_hide_set());
                let hidden: Vec<String> =
                    hidden.filter_map(|arg| Some(arg.get_long()?.into())).collect();
                let mut text = Vec::new();
                generate(shell, &mut command, &name, &mut text);
                let text = String::from_utf8(text).expect("a script is text");
                (format!("{name}.{shell}"), without(&text, &hidden))
            });
        let mount = &mut scripts[0].1;
        match shell {
            Shell::Bash => *mount += &bash(&mount.clone()),
            Shell::Fish => *mount += FISH,
            _ => *mount = zsh(mount),
        }
        all.extend(scripts);
    }
    all
}

/// A script without the options that people are not to see.
fn without(text: &str, hidden: &[String]) -> String {
    let about = |line: &str| {
        let is = |name: &String| {
            line.contains(&format!("'--{name}["))
                || line.contains(&format!("'--{name}=["))
                || line.contains(&format!("'*--{name}"))
                || line.contains(&format!(" -l {name} "))
        };
        hidden.iter().any(|name| is(name) || line.ends_with(&format!(" -l {name}")))
    };
    // What an option can be goes on over lines in zsh's and fish's, until its quote ends.
    let quote = if text.starts_with("complete ") { '"' } else { '\'' };
    let mut open = false;
    let mut kept = String::new();
    for line in text.lines() {
        if open || about(line) {
            let odd = line.matches(quote).count() % 2 == 1;
            open ^= odd;
            continue;
        }
        kept += line;
        kept.push('\n');
    }
    hidden.iter().for_each(|name| kept = kept.replace(&format!(" --{name} "), " "));
    kept
}

const FISH: &str = r#"
# The folder is in the other qube; what is completed is the server, then the mount point.
function __qvm_mount_folder_words
    set -l words (commandline -opc)[2..]
    count (string match -v -- '-*' $words)
end
complete -c qvm-mount-folder -n 'test (__qvm_mount_folder_words) -eq 0' -f -a '(qvm-mount-folder --complete-servers 2>/dev/null)'
complete -c qvm-mount-folder -n 'test (__qvm_mount_folder_words) -eq 1' -f
complete -c qvm-mount-folder -n 'test (__qvm_mount_folder_words) -eq 2' -f -a '(__fish_complete_directories)'
"#;

fn bash(generated: &str) -> String {
    let command = client::cli::Cli::command();
    let valued = command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set());
    let valued = valued.filter(|arg| arg.get_action().takes_values() && arg.get_id() != "watch");
    let mut words = Vec::new();
    for arg in valued {
        words.extend(arg.get_short().map(|short| format!("-{short}")));
        words.extend(arg.get_long().map(|long| format!("--{long}")));
    }
    let function = generated.lines().find_map(|line| line.strip_suffix("() {"));
    let function = function.expect("clap's script is a function");
    BASH.replace("@VALUED@", &words.join(" | ")).replace("@CLAP@", function)
}

/// Counts the words that are no options, and no values of theirs.
const BASH: &str = r#"
_qvm-mount-folder-words() {
    local cur=${COMP_WORDS[COMP_CWORD]} word value= count=0 i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
            =) value=1; continue ;;
            @VALUED@) value=1; continue ;;
            -*) ;;
            *) [[ $value ]] || count=$((count + 1)) ;;
        esac
        value=
    done
    if [[ $value || $cur == -* ]]; then
        @CLAP@ "$@"
        return
    fi
    COMPREPLY=()
    case $count in
        0) mapfile -t COMPREPLY < <(compgen -W "$(qvm-mount-folder --complete-servers 2>/dev/null)" -- "$cur") ;;
        1) ;; # the folder is in the other qube
        2) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
    esac
}
complete -F _qvm-mount-folder-words -o nosort qvm-mount-folder
"#;

fn zsh(generated: &str) -> String {
    let servers = "_qvm_mount_folder_servers() {\n    local -a servers\n    \
                   servers=(${(f)\"$(_call_program servers qvm-mount-folder --complete-servers)\"})\n    \
                   compadd -a servers\n}\n";
    let mut text = String::new();
    for line in generated.lines() {
        let line = line.trim_end();
        let done = match () {
            () if line.contains(":server -- ") => {
                line.replace(":_default'", ":_qvm_mount_folder_servers'")
            }
            () if line.contains(":folder -- ") => line.replace(":_default'", ":'"),
            () if line.contains(":mountpoint -- ") => line.replace(":_files'", ":_directories'"),
            () => line.to_owned(),
        };
        text += &done;
        text.push('\n');
        if line.starts_with("autoload -U is-at-least") {
            text += servers;
        }
    }
    assert!(text.contains(":_qvm_mount_folder_servers'"), "{COMMAND}'s server has another form");
    text
}

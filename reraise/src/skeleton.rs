//! Starter scripts to begin with: one to edit, and one for a given command.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::config::KEYS;

const HEAD: &str = "\
#!/bin/sh
# shellcheck disable=SC2034  # Reraise reads the config_ lines.

# A starter script of Reraise. Edit it, save it as $RERAISE_DIR/NAME, and then:
#   chmod +x NAME
#   reraise start NAME

# How the service is supervised. Reraise reads these lines itself, before every
# run and without a shell, so no $(command) here. Each shows the default: take
# the first `#` away to change it.
";

const TAIL: &str = "
# What the command below needs.
directory=/
port=8000
#port=${0##*-}          # from the name of the script: 8000 for http-8000
export PORT=\"$port\"

cd \"$directory\" || exit 1

# The service: one command that stays in the foreground. After `exec` it gets
# the signals itself. Put yours in the place of `sleep`, for example:
#   exec python3 -u -m http.server \"$port\"
exec sleep 1000000000
";

/// The script that `reraise skeleton` prints. It runs as it is, and sleeps.
#[must_use]
pub fn skeleton() -> String {
    let mut script = HEAD.to_owned();
    for key in KEYS.iter().filter(|key| key.is_supported()) {
        let default = match key.default.contains(' ') {
            true => format!("\"{}\"", key.default),
            false => key.default.to_owned(),
        };
        let line = format!("#config_{}={default}", key.name);
        // Writing to a string does not fail.
        let _ = writeln!(script, "{line:<31} # {}", key.meaning);
    }
    script + TAIL
}

/// A script that executes `command` in `directory`. The shell sees each word
/// exactly as given, and no part of a word can be taken for a `config_` line.
///
/// # Errors
/// When a script cannot say it: no command, one that `exec` would take for an
/// option, a NUL byte.
pub fn skeleton_for(command: &[OsString], directory: &Path) -> Result<Vec<u8>, String> {
    match command.first().map(|word| word.as_bytes()) {
        None => return Err("command is missing".to_owned()),
        Some([]) => return Err("command is empty".to_owned()),
        Some([b'-', ..]) => return Err("command starts with `-`".to_owned()),
        Some(_) => {}
    }
    let directory = directory.as_os_str();
    if directory.is_empty() {
        return Err("directory is empty".to_owned());
    }
    let has_nul = |word: &OsStr| word.as_bytes().contains(&0);
    if has_nul(directory) || command.iter().any(|word| has_nul(word)) {
        return Err("command or directory contains a NUL byte".to_owned());
    }
    let mut script = b"#!/bin/sh\ncd ".to_vec();
    // `cd -` is the last directory, and CDPATH applies to plain names.
    let is_plain = !matches!(directory.as_bytes(), [b'/', ..] | [b'.', b'/', ..]);
    let prefix: &[u8] = if is_plain { b"./" } else { b"" };
    push_quoted(&mut script, &[prefix, directory.as_bytes()].concat());
    script.extend_from_slice(b" || exit 1\nexec");
    for word in command {
        script.push(b' ');
        push_quoted(&mut script, word.as_bytes());
    }
    script.push(b'\n');
    Ok(script)
}

/// A word for a shell. After a newline the quotes are closed and opened again,
/// so that no line begins with what the word says.
fn push_quoted(script: &mut Vec<u8>, word: &[u8]) {
    let is_safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(byte);
    if !word.is_empty() && word.iter().all(is_safe) {
        script.extend_from_slice(word);
        return;
    }
    script.push(b'\'');
    for &byte in word {
        match byte {
            b'\'' => script.extend_from_slice(br"'\''"),
            b'\n' => script.extend_from_slice(b"\n''"),
            _ => script.push(byte),
        }
    }
    script.push(b'\'');
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::os::unix::ffi::OsStringExt;
    use std::process::Command;

    use super::*;
    use crate::config::{Config, LogTo};

    type Words = &'static [&'static [u8]];

    fn words(words: &[&[u8]]) -> Vec<OsString> {
        words.iter().map(|word| OsString::from_vec(word.to_vec())).collect()
    }

    #[test]
    fn the_skeleton_has_the_defaults() {
        let commented = skeleton();
        let active = commented.replace("\n#config_", "\nconfig_");
        assert_eq!(
            active.matches("\nconfig_").count(),
            KEYS.iter().filter(|k| k.is_supported()).count()
        );
        for script in [commented, active] {
            let (config, problems) = Config::parse(script.as_bytes(), &|_| None);
            assert_eq!(problems, []);
            // Said or not said makes a difference by hand only.
            assert_eq!(Config { log: LogTo::Default, ..config }, Config::default());
            assert!(script.lines().all(|line| line.len() <= 100), "{script}");
        }
    }

    #[test]
    fn the_skeleton_is_good_shell() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("http-8000");
        fs::write(&path, skeleton().replace("\n#config_", "\nconfig_")).unwrap();
        let checks: [&[&str]; 2] = [&["sh", "-n"], &["shellcheck", "--shell=sh"]];
        for check in checks {
            match Command::new(check[0]).args(&check[1..]).arg(&path).output() {
                Ok(output) => assert!(output.status.success(), "{check:?} {output:?}"),
                Err(error) => assert_eq!(check[0], "shellcheck", "{error}"),
            }
        }
    }

    #[test]
    fn the_skeleton_comes_to_its_last_line() {
        assert!(skeleton().ends_with("\nexec sleep 1000000000\n"));
        let script = skeleton().replace("exec sleep", "exec echo \"$PWD\" \"$PORT\"");
        let output = Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
        assert_eq!(output.stdout, b"/ 8000 1000000000\n");
    }

    #[test]
    fn scripts_are_readable() {
        let cases: &[(Words, &str, &str)] = &[
            (
                &[b"./server", b"--port=80"],
                "/srv/a",
                "cd /srv/a || exit 1\nexec ./server --port=80",
            ),
            (&[b"a", b"b c", b""], "/a b", "cd '/a b' || exit 1\nexec a 'b c' ''"),
            (&[b"a", b"it's"], "-", "cd ./- || exit 1\nexec a 'it'\\''s'"),
            (&[b"a", b"~", b"$x", b"#"], "./x", "cd ./x || exit 1\nexec a '~' '$x' '#'"),
            (&[b"a", b"x\nconfig_log=no"], "b", "cd ./b || exit 1\nexec a 'x\n''config_log=no'"),
        ];
        for (command, directory, body) in cases {
            let script = skeleton_for(&words(command), Path::new(directory)).unwrap();
            assert_eq!(String::from_utf8(script).unwrap(), format!("#!/bin/sh\n{body}\n"));
        }
    }

    #[test]
    fn what_no_script_can_say() {
        let cases: &[(Words, &[u8], &str)] = &[
            (&[], b"/", "command is missing"),
            (&[b""], b"/", "command is empty"),
            (&[b"-a"], b"/", "command starts with `-`"),
            (&[b"a"], b"", "directory is empty"),
            (&[b"a\0"], b"/", "command or directory contains a NUL byte"),
            (&[b"a", b"b\0"], b"/", "command or directory contains a NUL byte"),
            (&[b"a"], b"/\0", "command or directory contains a NUL byte"),
        ];
        for (command, directory, error) in cases {
            let directory = Path::new(OsStr::from_bytes(directory));
            assert_eq!(skeleton_for(&words(command), directory), Err((*error).to_owned()));
        }
    }

    #[test]
    fn the_shell_sees_each_word_as_given() {
        let every: Vec<u8> = (1..=255).collect();
        let mut arguments =
            words(&[b"printf", b"%s\\0", b"", b"-n", b"--", b"a b", b"'", b"''", b"\""]);
        arguments
            .extend(words(&[b"$HOME", b"${x}", b"`id`", b"$(id)", b"\\", b"\\n", b"a\\", b"!!"]));
        arguments
            .extend(words(&[b"*", b"~", b"#x", b";", b"&", b"|", b"x=y", b"\n", b"\n\n", b"a\n"]));
        arguments.extend(words(&[
            b"\nconfig_log=no\n",
            b"\r\n",
            b"\xff\xfe",
            "é東".as_bytes(),
            &every,
        ]));
        arguments.extend((1..=255).map(|byte| OsString::from_vec(vec![byte])));
        let root = tempfile::tempdir().unwrap();
        for directory in ["plain", "-", "-x", "a b", "it's", "$HOME", "a\nconfig_log=no", "*"] {
            let path = root.path().join(directory);
            fs::create_dir(&path).unwrap();
            let script = skeleton_for(&arguments, &path).unwrap();
            let (config, problems) = Config::parse(&script, &|_| None);
            assert_eq!((config, problems), (Config::default(), Vec::new()));

            fs::write(path.join("script"), &script).unwrap();
            let output = Command::new("/bin/sh").arg(path.join("script")).output().unwrap();
            let seen: Vec<_> = output.stdout.split(|byte| *byte == 0).collect();
            let given: Vec<_> = arguments[2..].iter().map(|word| word.as_bytes()).collect();
            assert_eq!((&seen[..seen.len() - 1], output.stderr), (&given[..], Vec::new()));

            let script = skeleton_for(&words(&[b"pwd"]), Path::new(directory)).unwrap();
            let mut shell = Command::new("/bin/sh");
            shell.arg("-c").arg(OsString::from_vec(script)).env("CDPATH", "/:/tmp");
            let output = shell.current_dir(root.path()).output().unwrap();
            let expected = path.canonicalize().unwrap().into_os_string().into_vec();
            assert_eq!(output.stdout.trim_ascii_end(), expected.trim_ascii_end());
        }
    }
}

//! From the command line and the environment to values by flag.
//!
//! Go's flag syntax, because people's unit files and manifests are written in it:
//!
//! | written | means |
//! |---|---|
//! | `-name x`, `--name x`, `-name=x`, `--name=x` | the value `x` |
//! | `--pre-vote`, `--pre-vote=false` | a boolean; `--pre-vote false` is an error |
//! | a flag twice | the last one counts |
//! | `--`, or a word that is no flag | the end of the flags; a word left over is an error |
//! | `-h`, `--help` | help, whatever follows |
//!
//! Every flag can be set by a variable instead (`ETCD_` and the name). etcd's rules: an empty
//! variable is as good as unset; a variable and its flag together are an error, even if they
//! agree; an unknown `ETCD_*` only deserves a warning, since orchestrators set such names for
//! reasons of their own.

use super::error::ConfigError;
use super::flags::{self, Flag};
use super::value::{self, Kind};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What a command line asks for.
#[derive(Debug)]
pub enum Asked {
    Help,
    Version,
    Values(Values, Vec<Notice>),
}

/// Something to log once there is a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A variable set a flag.
    VariableUsed { variable: String, value: String },
    /// `NAME=value` that looks meant for us, but is not known.
    VariableUnknown { variable: String },
    /// A spelling that etcd dropped in 3.7.
    OldSpelling { given: String, now: &'static str },
    /// A flag that changes nothing here, and why.
    NoEffect { given: String, why: &'static str },
}

/// The value of each flag: given, or its default.
#[derive(Debug, Default)]
pub struct Values {
    given: BTreeMap<&'static str, Given>,
}

#[derive(Debug)]
struct Given {
    value: String,
    /// As the user wrote it: `--name` or `ETCD_NAME`.
    source: String,
}

/// Reads the arguments after the program's and the subcommand's name.
pub fn read(
    arguments: &[String],
    environment: &BTreeMap<String, String>,
) -> Result<Asked, ConfigError> {
    let mut values = Values::default();
    let mut notices = Vec::new();
    if !read_flags(arguments, &mut values, &mut notices)? {
        return Ok(Asked::Help);
    }
    if values.bool("version") {
        return Ok(Asked::Version);
    }
    read_variables(environment, &mut values, &mut notices)?;
    Ok(Asked::Values(values, notices))
}

/// Takes the flags; `false` if help was asked for.
fn read_flags(
    arguments: &[String],
    values: &mut Values,
    notices: &mut Vec<Notice>,
) -> Result<bool, ConfigError> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(body) = flag_body(argument)? else {
            let leftover = if argument == "--" { rest.next() } else { Some(argument) };
            return match leftover {
                None => Ok(true),
                Some(word) => Err(not_a_flag(word)),
            };
        };
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let Some(flag) = flags::find(name) else {
            if name == "help" || name == "h" {
                return Ok(false);
            }
            return Err(unknown_flag(name));
        };
        let value = match inline {
            Some(value) => value,
            None if flag.kind.stands_alone() => "true",
            None => rest.next().ok_or_else(|| needs_value(flag))?,
        };
        let source = format!("--{name}");
        flag.kind.check(value).map_err(|reason| {
            ConfigError::usage(format!("invalid value {value:?} for flag {source}: {reason}"))
        })?;
        note_spelling(flag, name, &source, notices);
        values.given.insert(flag.name, Given { value: value.to_owned(), source });
    }
    Ok(true)
}

/// What stands behind the dashes; `None` if the argument is no flag or ends the flags.
fn flag_body(argument: &str) -> Result<Option<&str>, ConfigError> {
    let Some(one_dash) = argument.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
        return Ok(None);
    };
    let body = one_dash.strip_prefix('-').unwrap_or(one_dash);
    if argument == "--" {
        return Ok(None);
    }
    if body.starts_with(['-', '=']) {
        return Err(ConfigError::usage(format!("bad flag syntax: {argument}"))
            .with_hint("a flag is written --name value or --name=value"));
    }
    Ok(Some(body))
}

fn unknown_flag(name: &str) -> ConfigError {
    let error = ConfigError::usage(format!("flag provided but not defined: --{name}"));
    match flags::nearest(name) {
        Some(flag) if flag.kind.placeholder().is_empty() => {
            error.with_hint(format!("did you mean --{}?", flag.name))
        }
        Some(flag) => {
            error.with_hint(format!("did you mean --{} {}?", flag.name, flag.kind.placeholder()))
        }
        None => error,
    }
}

fn needs_value(flag: &Flag) -> ConfigError {
    ConfigError::usage(format!("flag needs an argument: --{}", flag.name)).with_hint(format!(
        "write --{} {} ({})",
        flag.name,
        flag.kind.placeholder(),
        flag.doc
    ))
}

fn not_a_flag(word: &str) -> ConfigError {
    let error = ConfigError::invalid(format!("{word:?} is not a valid flag"));
    if value::bool(word).is_ok() {
        return error.with_hint("a boolean flag takes its value after '=': --pre-vote=false");
    }
    match word {
        "gateway" | "grpc-proxy" => error.with_hint("there is no such subcommand here"),
        _ => error.with_hint("flags begin with one or two dashes; nothing else is expected"),
    }
}

fn note_spelling(flag: &Flag, name: &str, source: &str, notices: &mut Vec<Notice>) {
    if name != flag.name {
        notices.push(Notice::OldSpelling { given: source.to_owned(), now: flag.name });
    }
}

fn read_variables(
    environment: &BTreeMap<String, String>,
    values: &mut Values,
    notices: &mut Vec<Notice>,
) -> Result<(), ConfigError> {
    for (variable, value) in environment {
        let Some(suffix) = variable.strip_prefix("ETCD_") else { continue };
        // Allows etcd on rare processors; every processor we build for is as good as another.
        if value.is_empty() || suffix == "UNSUPPORTED_ARCH" {
            continue;
        }
        let name = suffix.to_lowercase().replace('_', "-");
        let known = flags::find(&name)
            // Setting it would print the version instead of starting: etcd ignores it as well.
            .filter(|flag| flag.name != "version" && flag.kind != Kind::Legacy)
            .filter(|flag| *variable == flag.variable() || name != flag.name);
        let Some(flag) = known else {
            notices.push(Notice::VariableUnknown { variable: format!("{variable}={value}") });
            continue;
        };
        if let Some(given) = values.given.get(flag.name) {
            return Err(conflict(variable, &given.source));
        }
        flag.kind.check(value).map_err(|reason| {
            ConfigError::invalid(format!("invalid value {value:?} for {variable}: {reason}"))
        })?;
        note_spelling(flag, &name, variable, notices);
        notices.push(Notice::VariableUsed { variable: variable.clone(), value: value.clone() });
        let given = Given { value: value.clone(), source: variable.clone() };
        values.given.insert(flag.name, given);
    }
    Ok(())
}

fn conflict(variable: &str, other: &str) -> ConfigError {
    ConfigError::conflict(format!(
        "conflicting environment variable is shadowed by corresponding command-line flag (either \
         unset environment variable or disable flag)): {variable} and {other}"
    ))
    .with_hint(format!("unset {variable} or leave {other} out"))
}

impl Values {
    /// Whether the user gave the flag, by argument or variable.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// How the user named the flag: `--name` or `ETCD_NAME`.
    pub fn source(&self, name: &str) -> String {
        self.given.get(name).map_or_else(|| format!("--{name}"), |given| given.source.clone())
    }

    /// The flags given, in the order of their names, with their values.
    pub fn given(&self) -> impl Iterator<Item = (&'static Flag, &str)> {
        self.given.iter().map(|(name, given)| {
            (flags::find(name).expect("only known flags are kept"), given.value.as_str())
        })
    }

    pub fn text(&self, name: &str) -> &str {
        match self.given.get(name) {
            Some(given) => &given.value,
            None => flags::find(name).expect("asked for a flag of the table").default,
        }
    }

    pub fn bool(&self, name: &str) -> bool {
        self.typed(name, value::bool)
    }

    pub fn uint(&self, name: &str) -> u64 {
        self.typed(name, value::uint)
    }

    pub fn int(&self, name: &str) -> i64 {
        self.typed(name, value::int)
    }

    pub fn duration(&self, name: &str) -> Duration {
        self.typed(name, value::duration)
    }

    pub fn urls(&self, name: &str) -> Vec<super::Url> {
        self.typed(name, value::urls)
    }

    /// A path; `None` if the flag is empty.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.text(name)).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    fn typed<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> T {
        read(self.text(name)).expect("checked against the flag's kind when it was read")
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::ErrorKind;
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn asked(line: &str, variables: &[(&str, &str)]) -> Result<Asked, ConfigError> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        read(&arguments, &environment(variables))
    }

    fn values(line: &str) -> Values {
        match asked(line, &[]) {
            Ok(Asked::Values(values, _)) => values,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_spelling_of_go_sets_the_flag() {
        for line in ["-name x", "--name x", "-name=x", "--name=x", "--name y --name x"] {
            assert_eq!(values(line).text("name"), "x", "{line}");
        }
        for line in ["--pre-vote=false", "-pre-vote=F", "--pre-vote --pre-vote=0"] {
            assert!(!values(line).bool("pre-vote"), "{line}");
        }
        for line in ["--pre-vote", "-pre-vote", "--pre-vote=true", ""] {
            assert!(values(line).bool("pre-vote"), "{line}");
        }
        assert_eq!(values("--name=").text("name"), "");
        assert_eq!(values("--name a=b").text("name"), "a=b");
        assert_eq!(values("--name --").text("name"), "--");
        assert_eq!(values("--quota-backend-bytes -1").int("quota-backend-bytes"), -1);
        assert_eq!(values("--max-learners 2 --").uint("max-learners"), 2);
        assert_eq!(values("-v --name x").text("name"), "x", "a legacy flag takes no argument");
    }

    #[test]
    fn values_not_given_are_the_defaults() {
        let values = values("");
        assert!(!values.is_given("name"));
        assert_eq!(values.text("name"), "default");
        assert_eq!(values.uint("heartbeat-interval"), 100);
        assert_eq!(values.path("wal-dir"), None);
    }

    #[test]
    fn help_and_version_come_before_the_environment() {
        let bad = [("ETCD_NAME", "x"), ("ETCD_PRE_VOTE", "maybe")];
        for line in ["-h", "--help", "-help", "--name x --help --nonsense"] {
            assert!(matches!(asked(line, &bad), Ok(Asked::Help)), "{line}");
        }
        for line in ["--version", "-version", "--name x --version"] {
            assert!(matches!(asked(line, &bad), Ok(Asked::Version)), "{line}");
        }
    }

    #[test]
    fn bad_command_lines_say_what_was_expected() {
        let table: &[(&str, u8, &str, Option<&str>)] = &[
            (
                "--listen-client-url=http://a:1",
                2,
                "flag provided but not defined: --listen-client-url",
                Some("did you mean --listen-client-urls <urls>?"),
            ),
            (
                "--prevote",
                2,
                "flag provided but not defined: --prevote",
                Some("did you mean --pre-vote?"),
            ),
            ("--zzzzzz", 2, "flag provided but not defined: --zzzzzz", None),
            ("--enable-v2", 2, "flag provided but not defined: --enable-v2", None),
            (
                "---name x",
                2,
                "bad flag syntax: ---name",
                Some("a flag is written --name value or --name=value"),
            ),
            (
                "-=3",
                2,
                "bad flag syntax: -=3",
                Some("a flag is written --name value or --name=value"),
            ),
            (
                "--name",
                2,
                "flag needs an argument: --name",
                Some("write --name <text> (Name of this member, unique in the cluster.)"),
            ),
            (
                "--heartbeat-interval x",
                2,
                "invalid value \"x\" for flag --heartbeat-interval: parse error; expected a whole \
                 number, 0 or more",
                None,
            ),
            (
                "--initial-cluster-state old",
                2,
                "invalid value \"old\" for flag --initial-cluster-state: expected one of: new, existing",
                None,
            ),
            (
                "--log-level=trace",
                2,
                "invalid value \"trace\" for flag --log-level: expected one of: debug, info, warn, \
                 error, panic, fatal",
                None,
            ),
            (
                "--listen-client-urls localhost:2379",
                2,
                "invalid value \"localhost:2379\" for flag --listen-client-urls: URL scheme must be \
                 http, https, unix, or unixs: localhost:2379 (did you mean http://localhost:2379?)",
                None,
            ),
            (
                "--pre-vote false",
                1,
                "\"false\" is not a valid flag",
                Some("a boolean flag takes its value after '=': --pre-vote=false"),
            ),
            (
                "name",
                1,
                "\"name\" is not a valid flag",
                Some("flags begin with one or two dashes; nothing else is expected"),
            ),
            (
                "-- --name",
                1,
                "\"--name\" is not a valid flag",
                Some("flags begin with one or two dashes; nothing else is expected"),
            ),
            (
                "-",
                1,
                "\"-\" is not a valid flag",
                Some("flags begin with one or two dashes; nothing else is expected"),
            ),
            (
                "gateway start",
                1,
                "\"gateway\" is not a valid flag",
                Some("there is no such subcommand here"),
            ),
        ];
        for (line, code, message, hint) in table {
            let error = asked(line, &[]).expect_err(line);
            assert_eq!(error.to_string(), *message);
            assert_eq!(error.exit_code(), *code, "{line}");
            assert_eq!(error.hint(), *hint, "{line}");
        }
    }

    #[test]
    fn variables_set_flags_and_are_told() {
        let variables = [
            ("ETCD_NAME", "infra0"),
            ("ETCD_DATA_DIR", ""),
            ("ETCD_EXPERIMENTAL_MAX_LEARNERS", "3"),
            ("ETCD_SERVICE_HOST", "10.0.0.1"),
            ("ETCD_VERSION", "v3.5.1"),
            ("ETCD_UNSUPPORTED_ARCH", "riscv64"),
            ("ETCDCTL_API", "3"),
            ("ETCD_name", "x"),
            ("PATH", "/bin"),
        ];
        let Ok(Asked::Values(values, notices)) = asked("--pre-vote=false", &variables) else {
            panic!("the variables are lawful");
        };
        assert_eq!(values.text("name"), "infra0");
        assert_eq!(values.source("name"), "ETCD_NAME");
        assert_eq!(values.uint("max-learners"), 3);
        assert!(!values.is_given("data-dir"));
        let used = |variable: &str, value: &str| Notice::VariableUsed {
            variable: variable.to_owned(),
            value: value.to_owned(),
        };
        let unknown = |variable: &str| Notice::VariableUnknown { variable: variable.to_owned() };
        assert_eq!(
            notices,
            [
                Notice::OldSpelling {
                    given: "ETCD_EXPERIMENTAL_MAX_LEARNERS".to_owned(),
                    now: "max-learners"
                },
                used("ETCD_EXPERIMENTAL_MAX_LEARNERS", "3"),
                used("ETCD_NAME", "infra0"),
                unknown("ETCD_SERVICE_HOST=10.0.0.1"),
                unknown("ETCD_VERSION=v3.5.1"),
                unknown("ETCD_name=x"),
            ]
        );
    }

    #[test]
    fn a_variable_and_its_flag_together_are_fatal_and_both_named() {
        let table = [
            ("--name x", "ETCD_NAME", "x", "--name"),
            ("--max-learners 1", "ETCD_EXPERIMENTAL_MAX_LEARNERS", "2", "--max-learners"),
        ];
        for (line, variable, value, flag) in table {
            let error = asked(line, &[(variable, value)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict);
            assert_eq!(error.exit_code(), 1);
            assert!(error.to_string().contains(variable), "{error}");
            assert!(error.to_string().contains(flag), "{error}");
            let told = "conflicting environment variable is shadowed by";
            assert!(error.to_string().starts_with(told));
        }
        assert!(asked("--name x", &[("ETCD_NAME", "")]).is_ok(), "empty is unset");
    }

    #[test]
    fn a_bad_variable_is_named_with_its_value() {
        let error = asked("", &[("ETCD_HEARTBEAT_INTERVAL", "x")]).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert_eq!(
            error.to_string(),
            "invalid value \"x\" for ETCD_HEARTBEAT_INTERVAL: parse error; expected a whole number, \
             0 or more"
        );
    }

    #[test]
    fn an_old_spelling_works_and_is_told() {
        let Ok(Asked::Values(values, notices)) =
            asked("--experimental-warning-apply-duration=1s", &[])
        else {
            panic!("the flag is lawful");
        };
        assert_eq!(values.duration("warning-apply-duration"), Duration::from_secs(1));
        assert_eq!(
            notices,
            [Notice::OldSpelling {
                given: "--experimental-warning-apply-duration".to_owned(),
                now: "warning-apply-duration"
            }]
        );
    }
}

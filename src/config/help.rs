//! The text of `--help`, from the flag table.

use super::flags::{Flag, GROUPS, Group, Support};
use std::fmt::Write;

/// The help text of the server; `program` is how it was called (`etcd`, `quorate server`).
pub fn help(program: &str) -> String {
    let mut text = format!(
        "Start a Quorate server. Flags and defaults are etcd's.\n\
         \n\
         Usage:\n  \
           {program} [flags]\n\
         \n\
         A flag is written --name value or --name=value, with one dash or two; a boolean flag\n\
         --name or --name=false. Each can be set by a variable instead: ETCD_DATA_DIR for\n\
         --data-dir. Giving both is an error.\n"
    );
    for group in GROUPS {
        match group.flags[0].support {
            Support::Works => describe(&mut text, group),
            Support::NoEffect(_) | Support::Missing(_) => name_only(&mut text, group),
        }
    }
    text
}

fn describe(text: &mut String, group: &Group) {
    write!(text, "\n{}:\n", group.title).expect("a String takes all text");
    for flag in group.flags {
        let Flag { name, kind, default, doc, .. } = flag;
        let placeholder = kind.placeholder();
        let space = if placeholder.is_empty() { "" } else { " " };
        let default = if default.is_empty() { String::new() } else { format!(" [{default}]") };
        write!(text, "  --{name}{space}{placeholder}{default}\n      {doc}\n")
            .expect("a String takes all text");
    }
}

fn name_only(text: &mut String, group: &Group) {
    write!(text, "\n{}:\n", group.title).expect("a String takes all text");
    let mut column = 0;
    for flag in group.flags {
        let width = flag.name.len() + 3;
        if column > 0 && column + width > 96 {
            text.push('\n');
            column = 0;
        }
        text.push_str(if column == 0 { "  --" } else { " --" });
        text.push_str(flag.name);
        column += width;
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::flags;
    use super::*;

    #[test]
    fn the_help_text_names_every_flag_and_fits_the_screen() {
        let text = help("etcd");
        assert!(text.contains("\n  etcd [flags]\n"));
        for flag in flags::all() {
            let name = format!("--{}", flag.name);
            assert!(text.split_whitespace().any(|word| word == name), "{name}");
        }
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        assert!(text.contains("  --election-timeout <number> [1000]\n      Milliseconds"));
    }
}

//! The scratch copy in which planted bugs live: the files git knows, as they are in the work tree
//! now, with all patches applied, built once.
//!
//! A file of the copy is written only when it changed, so that a second build of the same tree
//! builds nothing. The copy shares the simulator's target folder: packages from the registry are
//! the same there, those of this repository get names of their own by their path, and the
//! selector's patch renames the program, so that neither build takes the other's place. Measured
//! on two cores: 20 s with the packages at hand, two to three minutes without.

#![expect(
    clippy::disallowed_methods,
    reason = "outside the simulation: files of the work tree, and cargo"
)]

use super::patch::{Files, Patch};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The repository whose simulator this is.
fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the simulator lies in the repository")
}

/// Where the patches lie.
pub fn folder() -> PathBuf {
    repository().join("sim/mutants")
}

fn told(path: &Path) -> impl FnOnce(std::io::Error) -> String {
    move |error| format!("{}: {error}", path.display())
}

/// All patches in the order of their names.
///
/// # Errors
/// Which one cannot be read, and why.
pub fn patches() -> Result<Vec<Patch>, String> {
    let folder = folder();
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).map_err(told(&folder))? {
        let name = entry.map_err(told(&folder))?.file_name();
        names.extend(name.to_str().filter(|name| name.ends_with(".patch")).map(str::to_owned));
    }
    let mut patches: Vec<Patch> = Vec::new();
    for name in names {
        let path = folder.join(&name);
        let text = std::fs::read_to_string(&path).map_err(told(&path))?;
        let patch = Patch::parse(&name, &text).map_err(|error| format!("{name}: {error}"))?;
        if let Some(other) = patches.iter().find(|other| other.name == patch.name) {
            return Err(format!("{name}: {} has the name {}, too", other.file, patch.name));
        }
        patches.push(patch);
    }
    Ok(patches)
}

/// The files git knows and the work tree has, by path.
fn tracked() -> Result<Vec<String>, String> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(repository()).output();
    let listed = listed.map_err(|error| format!("git ls-files: {error}"))?;
    if !listed.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim()));
    }
    let text = String::from_utf8(listed.stdout).map_err(|_| "a file's name is no text")?;
    let names = text.split('\0').filter(|name| !name.is_empty());
    Ok(names.filter(|name| repository().join(name).is_file()).map(str::to_owned).collect())
}

/// The files that patches touch, as they will be in the copy.
fn patched(patches: &[Patch]) -> Result<Files, String> {
    let mut files = Files::new();
    for change in patches.iter().flat_map(|patch| &patch.changes) {
        let path = repository().join(&change.path);
        if !change.creates && !files.contains_key(&change.path) && path.is_file() {
            let text = std::fs::read_to_string(&path).map_err(told(&path))?;
            files.insert(change.path.clone(), text.lines().map(str::to_owned).collect());
        }
    }
    for patch in patches {
        patch.apply(&mut files)?;
    }
    Ok(files)
}

/// Brings the copy up to date.
///
/// # Errors
/// The patch and the hunk that do not fit, or the file that cannot be read or written.
pub fn update(patches: &[Patch], tree: &Path) -> Result<(), String> {
    let changed = patched(patches)?;
    let names: BTreeSet<String> = tracked()?.into_iter().chain(changed.keys().cloned()).collect();
    remove_others(tree, tree, &names)?;
    for name in &names {
        let source = repository().join(name);
        let wanted = match changed.get(name) {
            Some(lines) => (lines.join("\n") + "\n").into_bytes(),
            None => std::fs::read(&source).map_err(told(&source))?,
        };
        let target = tree.join(name);
        if std::fs::read(&target).is_ok_and(|there| there == wanted) {
            continue;
        }
        let parent = target.parent().expect("it lies in the tree");
        std::fs::create_dir_all(parent).map_err(told(parent))?;
        std::fs::write(&target, wanted).map_err(told(&target))?;
    }
    Ok(())
}

/// Removes files that an earlier copy left behind.
fn remove_others(tree: &Path, folder: &Path, names: &BTreeSet<String>) -> Result<(), String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry.map_err(told(folder))?.path();
        let name = path.strip_prefix(tree).expect("it lies in the tree").to_string_lossy();
        if path.is_dir() {
            remove_others(tree, &path, names)?;
        } else if !names.contains(&*name) {
            std::fs::remove_file(&path).map_err(told(&path))?;
        }
    }
    Ok(())
}

/// Builds the simulator of the copy and returns the program.
///
/// # Errors
/// That it cannot be built; cargo has said why.
pub fn build(tree: &Path) -> Result<PathBuf, String> {
    let target = repository().join("sim/target-sim");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // As the alias `sim` in `.cargo/config.toml` does it.
    let built = Command::new(cargo)
        .args(["build", "--config", "sim/.cargo/config.toml", "--profile", "sim", "--quiet"])
        .args(["--package", "quorate-sim", "--target-dir"])
        .arg(&target)
        .current_dir(tree)
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    if !built.success() {
        return Err(format!(
            "the copy in {} cannot be built; files that git does not know are not in it",
            tree.display()
        ));
    }
    Ok(target.join("sim").join("quorate-mutants"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::patch::NONE;

    /// Shown without a build: by applying them to the files of the work tree.
    #[test]
    fn every_patch_fits_the_tree() {
        let patches = patches().expect("they can be read");
        assert_eq!(patches.first().map(|patch| patch.name.as_str()), Some(NONE));
        let files = patched(&patches).expect("they fit");
        assert!(files.contains_key("src/mutant.rs"), "the selector makes it");
    }
}

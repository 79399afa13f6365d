//! Where manifests come from: files, folders, standard input.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::SourceText;
use super::finding::Report;

/// The longest manifest file that is read.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// How messages name it.
pub const STANDARD_INPUT: &str = "standard input";

/// Files of all `-f` together.
pub const MAX_FILES: usize = 500;

/// One `-f`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `-`
    StandardInput,
    /// A file, or a folder whose `.yaml`, `.yml` and `.json` files are read in order of name.
    Path(PathBuf),
}

impl From<&str> for Source {
    fn from(text: &str) -> Self {
        if text == "-" {
            Self::StandardInput
        } else {
            Self::Path(PathBuf::from(text))
        }
    }
}

/// Reads every source. Unreadable ones become problems of the report; a folder without manifests
/// is one as well.
pub fn read(sources: &[Source], input: &mut dyn Read) -> (Vec<SourceText>, Report) {
    let mut report = Report::default();
    let mut texts = Vec::new();
    for source in sources {
        match source {
            Source::StandardInput => {
                report.in_file(STANDARD_INPUT);
                texts.extend(read_text(STANDARD_INPUT, input, &mut report));
            }
            Source::Path(path) => {
                for file in files(path, &mut report) {
                    let name = file.display().to_string();
                    report.in_file(&name);
                    if texts.len() == MAX_FILES {
                        report.problem("", format!("more than {MAX_FILES} manifest files"));
                        return (texts, report);
                    }
                    match fs::File::open(&file) {
                        Ok(mut open) => texts.extend(read_text(&name, &mut open, &mut report)),
                        Err(error) => report.problem("", format!("cannot be read: {error}")),
                    }
                }
            }
        }
    }
    (texts, report)
}

/// The manifest files that a path stands for, in order of name.
pub fn files(path: &Path, report: &mut Report) -> Vec<PathBuf> {
    report.in_file(&path.display().to_string());
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => {
            report.problem("", format!("cannot be read: {error}"));
            return Vec::new();
        }
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|file| file.is_file() && has_manifest_name(file))
        .take(MAX_FILES + 1)
        .collect();
    found.sort();
    if found.is_empty() {
        report.problem("", "the folder holds no .yaml, .yml or .json file");
    }
    found
}

fn has_manifest_name(file: &Path) -> bool {
    file.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json"))
}

fn read_text(name: &str, input: &mut dyn Read, report: &mut Report) -> Option<SourceText> {
    let mut bytes = Vec::new();
    // A directory opened as a file, a vanished disk: the error itself says what.
    let read: io::Result<usize> = input.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    if let Err(error) = read {
        report.problem("", format!("cannot be read: {error}"));
        return None;
    }
    if bytes.len() as u64 > MAX_FILE_BYTES {
        report.problem("", format!("longer than {MAX_FILE_BYTES} bytes"));
        return None;
    }
    match String::from_utf8(bytes) {
        Ok(text) => Some(SourceText {
            name: name.to_owned(),
            text,
        }),
        Err(_) => {
            report.problem("", "not UTF-8 text");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_read_in_order_and_other_files_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["b.yml", "a.yaml", "c.json", "notes.txt"] {
            fs::write(folder.path().join(name), name).expect("written");
        }
        let (texts, report) = read(
            &[
                Source::Path(folder.path().to_owned()),
                Source::StandardInput,
            ],
            &mut &b"from input"[..],
        );
        assert!(report.problems.is_empty());
        let read: Vec<_> = texts.iter().map(|text| text.text.as_str()).collect();
        assert_eq!(read, ["a.yaml", "b.yml", "c.json", "from input"]);
    }

    #[test]
    fn what_cannot_be_read_is_all_reported() {
        let folder = tempfile::tempdir().expect("a folder");
        let long = folder.path().join("long.yaml");
        let length = usize::try_from(MAX_FILE_BYTES).expect("fits") + 1;
        fs::write(&long, vec![b'#'; length]).expect("written");
        let (texts, report) = read(
            &[
                Source::Path(folder.path().join("absent.yaml")),
                Source::Path(long),
                Source::StandardInput,
            ],
            &mut &[0xff_u8][..],
        );
        assert!(texts.is_empty());
        let rules: Vec<_> = report.problems.iter().map(|f| f.rule.as_str()).collect();
        assert!(rules[0].starts_with("cannot be read: "), "{rules:?}");
        assert_eq!(rules[1], "longer than 1048576 bytes");
        assert_eq!(rules[2], "not UTF-8 text");
    }
}

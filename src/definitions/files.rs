//! Reading files: each once, within limits, and every byte into the fingerprint.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::decode::{Notes, Value};
use super::yaml::{Place, cut};
use super::{Env, Purpose};
use crate::answer::Validator;
use crate::task::hex;

/// `backstop.yaml`, in bytes.
pub(super) const TEAM_LIMIT: u64 = 1024 * 1024;
/// An agent or a prompt, in bytes: a long system prompt is a tenth of it.
pub(super) const DOCUMENT_LIMIT: u64 = 256 * 1024;
/// A schema, in bytes.
pub(super) const SCHEMA_LIMIT: u64 = 1024 * 1024;
/// A secret, in bytes.
pub(super) const SECRET_LIMIT: u64 = 16 * 1024;
/// Files in `agents/`, `prompts/` or `schemas/`.
const FILES_MAX: usize = 1_000;
/// What to do about a file that a link brings in from elsewhere.
const LIE_INSIDE: &str = "let it be a file that lies in the project, or a link to one";

/// Where files are read from.
#[derive(Clone, Copy)]
pub(super) enum Home<'a> {
    /// A directory.
    Directory(&'a Path),
    /// Files that are at hand, by path: those that are shipped.
    Given(&'a [(&'a str, &'a str)]),
}

impl Home<'_> {
    /// Is there such a file?
    pub(super) fn has(&self, path: &str) -> bool {
        match self {
            Self::Directory(dir) => dir.join(path).is_file(),
            Self::Given(files) => files.iter().any(|(known, _)| *known == path),
        }
    }

    /// Does it lie elsewhere, once every link on the way to it is followed? The directory may be reached over a link itself,
    /// as macOS's `/tmp` is. What is not there lies nowhere: who reads it is told so.
    fn leads_out(&self, path: &str) -> bool {
        match self {
            Self::Directory(dir) => {
                let Ok(file) = fs::canonicalize(dir.join(path)) else { return false };
                !fs::canonicalize(dir.join(".")).is_ok_and(|root| file.starts_with(root))
            }
            Self::Given(_) => false,
        }
    }

    fn bytes(&self, path: &str, limit: u64) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        match self {
            Self::Directory(dir) => {
                let file = fs::File::open(dir.join(path)).map_err(|error| why(&error))?;
                if file.metadata().is_ok_and(|meta| meta.is_dir()) {
                    return Err("is a directory".to_owned());
                }
                file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| why(&error))?;
            }
            Self::Given(files) => {
                let found = files.iter().find(|(known, _)| *known == path);
                bytes.extend_from_slice(found.ok_or("does not exist")?.1.as_bytes());
            }
        }
        Ok(bytes)
    }

    /// The files of a folder, by path.
    fn paths(&self, folder: &str) -> Vec<PathBuf> {
        match self {
            Self::Directory(dir) => {
                fs::read_dir(dir.join(folder)).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
            }
            Self::Given(files) => {
                let paths = files.iter().map(|(path, _)| Path::new(path));
                paths.filter(|path| path.parent() == Some(Path::new(folder))).map(Path::to_path_buf).collect()
            }
        }
    }
}

/// The files that are read, and what was read of them.
pub(super) struct Files<'a> {
    home: Home<'a>,
    pub(super) env: Env<'a>,
    purpose: Purpose,
    hash: RefCell<Sha256>,
    schemas: RefCell<BTreeMap<String, Option<Json>>>,
}

impl<'a> Files<'a> {
    pub(super) fn new(home: Home<'a>, env: Env<'a>, purpose: Purpose) -> Self {
        Self { home, env, purpose, hash: RefCell::new(Sha256::new()), schemas: RefCell::new(BTreeMap::new()) }
    }

    /// SHA-256 over everything read so far, first 12 hex digits.
    pub(super) fn fingerprint(&self) -> String {
        let mut digits = hex(&self.hash.borrow().clone().finalize());
        digits.truncate(12);
        digits
    }

    /// The text of a file, its path relative to the directory; line ends as LF, without a byte order mark.
    pub(super) fn text(&self, path: &str, limit: u64) -> Result<String, String> {
        let bytes = self.home.bytes(path, limit)?;
        if bytes.len() as u64 > limit {
            return Err(format!("is larger than {} KiB", limit / 1024));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let line =
                error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            format!("is not UTF-8 (line {line})")
        })?;
        // Secrets must not be guessable from a fingerprint that is shown to everybody.
        if limit != SECRET_LIMIT {
            let mut hash = self.hash.borrow_mut();
            hash.update(path.as_bytes());
            hash.update([0]);
            hash.update(text.as_bytes());
            hash.update([0]);
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        Ok(text.replace("\r\n", "\n"))
    }

    /// As [`Files::text`], with the trouble noted.
    pub(super) fn read(&self, path: &str, limit: u64, notes: &mut Notes<'_>) -> Option<String> {
        match self.text(path, limit) {
            Ok(text) => Some(text),
            Err(why) => {
                let remedy =
                    if why.contains("UTF-8") { "save the file as UTF-8" } else { "correct the file, or remove it" };
                notes.error(&Place::file(path), "", why, remedy);
                None
            }
        }
    }

    /// As [`Files::read`], for what belongs to the project: whoever writes into it could else have any file of this machine
    /// read by a link, and told to a model. The team's file itself, secrets and what is named on a command line may be links
    /// to anywhere: their operator has put them there.
    pub(super) fn read_own(&self, path: &str, limit: u64, notes: &mut Notes<'_>) -> Option<String> {
        if self.home.leads_out(path) {
            notes.error(&Place::file(path), "", "leads out of the project", LIE_INSIDE);
            return None;
        }
        self.read(path, limit, notes)
    }

    /// The files of a folder with an extension, by name: relative path and stem. No folder, no files.
    pub(super) fn list(&self, folder: &str, extension: &str, notes: &mut Notes<'_>) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for path in self.home.paths(folder) {
            let named = path.extension().and_then(|e| e.to_str()) == Some(extension);
            let Some(stem) =
                path.file_stem().and_then(|stem| stem.to_str()).filter(|stem| named && !stem.starts_with('.'))
            else {
                continue;
            };
            found.push((format!("{folder}/{stem}.{extension}"), stem.to_owned()));
        }
        found.sort();
        if found.len() > FILES_MAX {
            let message = format!("{} files are more than can be read", found.len());
            notes.error(&Place::file(folder), "", message, format!("keep at most {FILES_MAX} here"));
            found.truncate(FILES_MAX);
        }
        found
    }

    /// The schema that a key names by its path.
    pub(super) fn schema(&self, value: &Value, notes: &mut Notes<'_>) -> Option<Json> {
        let path = value.text(notes)?;
        if Path::new(&path).components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            value.error(
                notes,
                format!("`{}` leads out of the project", cut(&path)),
                "write a path below it, such as schemas/review.json",
            );
            return None;
        }
        let path = path.trim_start_matches("./").to_owned();
        // Over a link; and `.//etc` has become `/etc`.
        if self.home.leads_out(&path) {
            value.error(notes, format!("`{}` leads out of the project", cut(&path)), LIE_INSIDE);
            return None;
        }
        if !self.schemas.borrow().contains_key(&path) && !self.home.has(&path) {
            let known = self.schemas.borrow();
            let near = crate::spelling::nearest(&path, known.keys().map(String::as_str));
            let remedy = near.map_or_else(
                || "write the schema there, or correct the path".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            value.error(notes, format!("there is no file {}", cut(&path)), remedy);
            return None;
        }
        self.schema_file(&path, notes)
    }

    /// A schema file: JSON, and a JSON Schema. Read once, however often it is named.
    pub(super) fn schema_file(&self, path: &str, notes: &mut Notes<'_>) -> Option<Json> {
        if let Some(read) = self.schemas.borrow().get(path) {
            return read.clone();
        }
        let text = self.read_own(path, SCHEMA_LIMIT, notes);
        let schema = text.and_then(|text| match serde_json::from_str::<Json>(&text) {
            Ok(schema) => match Validator::new(&schema) {
                Ok(_) => Some(schema),
                Err(error) => {
                    notes.error(
                        &Place::file(path),
                        &error.path,
                        format!("not a JSON Schema: {}", error.message),
                        "correct the schema; https://json-schema.org/learn explains the keywords",
                    );
                    None
                }
            },
            Err(error) => {
                let place = Place { file: path.into(), line: error.line(), column: error.column() };
                let message = error.to_string();
                let message = message.split(" at line ").next().unwrap_or_default();
                notes.error(
                    &place,
                    "",
                    format!("not JSON: {message}"),
                    "a schema file holds one JSON value; no comments, no comma at the end",
                );
                None
            }
        });
        self.schemas.borrow_mut().insert(path.to_owned(), schema.clone());
        schema
    }

    /// Notes that variables are not set: an error for who runs the team, a warning for who only checks it.
    pub(super) fn unset(&self, path: &str, names: &[String], so: &str, notes: &mut Notes<'_>) {
        let place = notes.place_of(path).cloned().unwrap_or_else(|| Place::file(super::TEAM_FILE));
        let message = format!("{} is not set: {so}", names.join(" and "));
        let remedy = format!("set it, for example `export {}=…`", names.first().map_or("NAME", String::as_str));
        match self.purpose {
            Purpose::Check | Purpose::Bound => notes.warning(&place, path, message, remedy),
            Purpose::Run => notes.error(&place, path, message, remedy),
        }
    }
}

/// An I/O error without the path, which is told anyway.
fn why(error: &std::io::Error) -> String {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the kinds an operator can act on; the others say it themselves")]
    match error.kind() {
        std::io::ErrorKind::NotFound => "does not exist".to_owned(),
        std::io::ErrorKind::PermissionDenied => "cannot be read: permission denied".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

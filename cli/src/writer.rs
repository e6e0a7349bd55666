//! Layouts → a file, or a directory of shards, that exists complete or not at all.
//!
//! A directory grows under a hidden name beside its target and is renamed when everything is in it. Each shard in it
//! appears in one step too, so that after an interruption the same command goes on where the last one stopped: shards
//! that are there are complete. What the run was is noted in `.run.json`; another command does not touch it. A large
//! file goes on behind the tensors that are in it (output.rs).

use crate::Result;
use crate::layout::{Layout, Piece};
use crate::model::{INDEX, Model, SINGLE};
use crate::output::{self, Output};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes copied between two steps of the progress bar.
const CHUNK: usize = 16 << 20;
const RUN: &str = ".run.json";
/// Bytes that an interruption may cost, in an output that can be taken up again.
const MARK: u64 = 64 << 20;
/// MiB from which on a file can be taken up again; a smaller one is soon written, and leaves nothing behind.
pub const RESUME_ABOVE: u64 = 256;

/// Where an output goes.
pub enum Target {
    File(PathBuf),
    Directory(PathBuf),
}

impl Target {
    /// A directory for a directory, unless the name is that of a file; a trailing slash always means a directory.
    pub fn choose(model: &Model, path: &Path) -> Result<Target> {
        let text = path.as_os_str().to_string_lossy();
        let named_file = path.extension().is_some_and(|e| e == "safetensors");
        if !text.ends_with('/') && (named_file || !model.is_directory) {
            for shard in &model.shards {
                let input =
                    if model.is_directory { model.path.join(&shard.file) } else { model.path.clone() };
                output::check_target(&input, path)?;
            }
            return Ok(Target::File(path.into()));
        }
        let empty = match fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_none(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => true,
            Err(e) => return Err(format!("{}: cannot be a directory of shards: {e}", path.display())),
        };
        if !empty {
            return Err(format!("{}: exists and is not empty; choose another output", path.display()));
        }
        Ok(Target::Directory(path.into()))
    }

    /// The shards of the output: those of the input, or one.
    pub fn files(&self, model: &Model) -> Vec<String> {
        match self {
            Target::File(path) => vec![path.file_name().unwrap_or_default().to_string_lossy().into_owned()],
            Target::Directory(_) if !model.is_directory => vec![SINGLE.into()],
            Target::Directory(_) => model.shards.iter().map(|s| s.file.clone()).collect(),
        }
    }
}

/// What the writing of one file needs.
pub struct Sink<'a> {
    out: &'a Output,
    pieces: &'a [Piece],
    pub bar: &'a ProgressBar,
    /// Steps that an earlier run has done.
    done: usize,
}

impl Sink<'_> {
    /// Carries the steps out that make up the file, one after another, but for those that an earlier run has done.
    /// `bytes`: how far a step moves the bar.
    pub fn each<T>(
        &self,
        steps: &[T],
        bytes: impl Fn(&T) -> u64,
        mut step: impl FnMut(&T) -> Result<()>,
    ) -> Result<()> {
        let mut unmarked = 0;
        for (i, item) in steps.iter().enumerate() {
            if i < self.done {
                self.bar.inc(bytes(item));
                continue;
            }
            if let Err(problem) = step(item) {
                let _ = self.out.mark(i); // what was done is of use once the problem is gone
                return Err(problem);
            }
            unmarked += bytes(item);
            if unmarked >= MARK || i + 1 == steps.len() {
                self.out.mark(i + 1)?;
                unmarked = 0;
            }
        }
        Ok(())
    }

    /// Bytes of a piece, from byte `at` of it on.
    pub fn write(&self, piece: usize, at: usize, bytes: &[u8]) -> Result<()> {
        let offset = self.pieces[piece].offset + at as u64;
        for (i, chunk) in bytes.chunks(CHUNK).enumerate() {
            self.out.write_at(chunk, offset + (i * CHUNK) as u64)?;
        }
        Ok(())
    }

    /// A whole piece that is copied, with the bar moving.
    pub fn copy(&self, piece: usize, bytes: &[u8]) -> Result<()> {
        for (i, chunk) in bytes.chunks(CHUNK).enumerate() {
            self.write(piece, i * CHUNK, chunk)?;
            self.bar.inc(chunk.len() as u64);
        }
        Ok(())
    }
}

pub struct Job<'a> {
    pub model: &'a Model,
    pub target: &'a Target,
    pub layouts: &'a [Layout],
    /// Files of a directory beside the shards: name, text.
    pub texts: Vec<(String, String)>,
    /// All that decides what the bytes are, but for the input.
    pub options: Value,
    pub restart: bool,
    /// MiB.
    pub resume_above: u64,
    pub quiet: bool,
}

impl Job<'_> {
    /// `fill` writes every piece of one layout. Gives a sentence about what an earlier run had written.
    pub fn run(&self, mut fill: impl FnMut(usize, &Sink) -> Result<()>) -> Result<Option<String>> {
        let bar = self.progress();
        let (files, steps) = match self.target {
            Target::File(path) => (0, self.shard(0, path, &bar, &mut fill)?),
            Target::Directory(path) => self.directory(path, &bar, &mut fill)?,
        };
        let whole = (files > 0).then(|| format!("{files} of {} files", self.layouts.len()));
        let partly = (steps > 0).then(|| format!("{steps} tensors of an unfinished one"));
        let found: Vec<String> = whole.into_iter().chain(partly).collect();
        Ok((!found.is_empty())
            .then(|| format!("{} were there from an interrupted run.\n", found.join(" and "))))
    }

    /// Gives how many steps an earlier run had done.
    fn shard(
        &self,
        index: usize,
        path: &Path,
        bar: &ProgressBar,
        fill: &mut impl FnMut(usize, &Sink) -> Result<()>,
    ) -> Result<usize> {
        let layout = &self.layouts[index];
        let (out, done) = match layout.file_bytes >> 20 >= self.resume_above {
            true => Output::resume(path, layout.file_bytes, &self.fingerprint().to_string(), self.restart)?,
            false => (Output::create(path)?, 0),
        };
        out.resize(layout.file_bytes)?;
        out.write_at(&layout.header, 0)?;
        fill(index, &Sink { out: &out, pieces: &layout.pieces, bar, done })?;
        out.finish().map(|()| done)
    }

    fn directory(
        &self,
        target: &Path,
        bar: &ProgressBar,
        fill: &mut impl FnMut(usize, &Sink) -> Result<()>,
    ) -> Result<(usize, usize)> {
        let name = target.file_name().ok_or_else(|| format!("{}: is not a name", target.display()))?;
        let staging = target.with_file_name(format!(".{}.part", name.to_string_lossy()));
        let _lock = self.enter(&staging)?;
        let (mut resumed, mut steps) = (0, 0);
        for (i, layout) in self.layouts.iter().enumerate() {
            let path = staging.join(&layout.file);
            if complete(&path, layout) {
                resumed += 1;
                continue;
            }
            steps += self.shard(i, &path, bar, fill)?;
        }
        let failed = |e: std::io::Error| format!("{}: cannot be finished: {e}", staging.display());
        for other in &self.model.others {
            fs::copy(self.model.path.join(other), staging.join(other))
                .map_err(|e| format!("{other}: cannot be copied: {e}"))?;
        }
        if let Some(index) = self.index() {
            fs::write(staging.join(INDEX), index).map_err(failed)?;
        }
        for (file, text) in &self.texts {
            fs::write(staging.join(file), text).map_err(failed)?;
        }
        fs::rename(&staging, target).map_err(failed)?;
        let _ = fs::remove_file(target.join(RUN)); // the directory is complete with it too
        if let Some(parent) = target.parent() {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            // Some file systems cannot sync a folder; its files are safe by now.
            let _ = File::open(parent).and_then(|f| f.sync_all());
        }
        Ok((resumed, steps))
    }

    /// Makes the hidden directory or takes up what an interrupted run of the same command left in it.
    fn enter(&self, staging: &Path) -> Result<File> {
        let failed = |e: std::io::Error| format!("{}: cannot be created: {e}", staging.display());
        let run = serde_json::to_string_pretty(&self.fingerprint()).unwrap_or_default();
        let note = staging.join(RUN);
        if self.restart && staging.exists() {
            fs::remove_dir_all(staging).map_err(failed)?;
        }
        match fs::create_dir(staging) {
            Ok(()) => fs::write(&note, &run).map_err(failed)?,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                let before = fs::read_to_string(&note).unwrap_or_default();
                if before != run {
                    return Err(format!(
                        "{}: holds the unfinished output of another command or input; --restart removes it",
                        staging.display()
                    ));
                }
            }
            Err(e) => return Err(failed(e)),
        }
        let lock = File::open(&note).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(fs::TryLockError::WouldBlock) => {
                Err(format!("{}: another process is writing it", staging.display()))
            }
            // A file system without locks: two runs at once are then the caller's to avoid.
            Err(fs::TryLockError::Error(_)) => Ok(lock),
        }
    }

    /// What has to be the same for a finished shard to be of use.
    fn fingerprint(&self) -> Value {
        let about = |file: &String| {
            let path = match self.model.is_directory {
                true => &self.model.path.join(file),
                false => &self.model.path,
            };
            json!({ "file": file, "is": about(path) })
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "options": self.options,
            "input": self.model.shards.iter().map(|s| about(&s.file)).collect::<Vec<_>>(),
        })
    }

    /// Hugging Face's index, where there is more than one file or there was an index before.
    fn index(&self) -> Option<String> {
        if self.layouts.len() < 2 && !self.model.path.join(INDEX).exists() {
            return None;
        }
        let mut map = Map::new();
        let mut total = 0u64;
        for layout in self.layouts {
            for piece in &layout.pieces {
                map.insert(piece.name.clone(), layout.file.clone().into());
                total += piece.bytes as u64;
            }
        }
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        Some(serde_json::to_string_pretty(&index).unwrap_or_default() + "\n")
    }

    /// On stderr, and only where that is a terminal.
    fn progress(&self) -> ProgressBar {
        let total = self.model.places().map(|p| self.model.tensor(p).bytes() as u64).sum();
        let target = if self.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let style = ProgressStyle::with_template(
            "{bar:30} {decimal_bytes}/{decimal_total_bytes} {eta:>4}  {wide_msg}",
        );
        ProgressBar::with_draw_target(Some(total), target)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_finish(ProgressFinish::AndClear) // an error's message gets a line of its own
    }
}

/// What tells a file that was read from another one of its name.
pub fn about(path: &Path) -> Value {
    let about = fs::metadata(path).ok();
    let time = about.as_ref().and_then(|a| a.modified().ok()).map(|t| format!("{t:?}"));
    json!({ "bytes": about.map(|a| a.len()), "modified": time })
}

/// A shard has its name only once it is whole; the header says whether it is the one that is wanted.
fn complete(path: &Path, layout: &Layout) -> bool {
    let read = || -> std::io::Result<bool> {
        let mut file = File::open(path)?;
        let mut header = vec![0; layout.header.len()];
        file.read_exact(&mut header)?;
        Ok(file.metadata()?.len() == layout.file_bytes && header == layout.header)
    };
    read().unwrap_or(false)
}

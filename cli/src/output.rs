//! A file that exists complete or not at all: written without a name, forced to the disk, then renamed into place.
//!
//! Where the file system can (O_TMPFILE), the unfinished file has no name, so that even a kill leaves nothing behind.
//! Elsewhere it is a hidden file beside the target, removed when the work fails.
//!
//! A large file is worth keeping: `.NAME.part` beside the target stays, and `.NAME.part.run` notes what the run was and
//! how many steps of it are on the disk, so that the same run goes on behind them.

use crate::Result;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

pub struct Output {
    file: File,
    target: PathBuf,
    /// Beside the target; holds the file from the start where it cannot be nameless.
    beside: PathBuf,
    named: bool,
    /// Of a file that stays when the work fails.
    note: Option<Note>,
}

/// The note beside an unfinished file: a line that says what the run is, and a line each time steps are on the disk.
struct Note {
    file: File,
    path: PathBuf,
}

impl Note {
    /// The note of an earlier run and the steps that it did, or one that begins here.
    fn open(path: PathBuf, run: &str, restart: bool) -> Result<(Note, usize)> {
        let failed = |e: io::Error| format!("{}: cannot be written: {e}", path.display());
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(format!("{}: another process is writing it", path.display()));
            }
            // A file system without locks: two runs at once are then the caller's to avoid.
            Err(fs::TryLockError::Error(_)) => {}
        }
        let mut text = String::new();
        if !restart {
            file.read_to_string(&mut text).map_err(failed)?;
        }
        let done = match text.split_once('\n') {
            Some((before, steps)) if before == run => {
                // A line that was cut off says nothing.
                let whole = steps.rsplit_once('\n').map_or("", |(whole, _)| whole);
                whole.lines().last().and_then(|line| line.parse().ok()).unwrap_or(0)
            }
            Some(_) => {
                return Err(format!(
                    "{}: belongs to the unfinished output of another command or input; --restart removes it",
                    path.display()
                ));
            }
            None => {
                file.set_len(0).and_then(|()| writeln!(file, "{run}")).map_err(failed)?;
                0
            }
        };
        Ok((Note { file, path }, done))
    }
}

/// Refuse what would destroy something: the input itself, a directory, a device.
pub fn check_target(input: &Path, target: &Path) -> Result<()> {
    let Ok(there) = fs::metadata(target) else { return Ok(()) };
    if !there.is_file() {
        return Err(format!("{}: exists and is not a regular file", target.display()));
    }
    let same = fs::metadata(input).is_ok_and(|i| (i.dev(), i.ino()) == (there.dev(), there.ino()));
    if same {
        return Err(format!("{}: is the input itself; choose another output", target.display()));
    }
    Ok(())
}

impl Output {
    pub fn create(target: &Path) -> Result<Output> {
        Output::open(target, nameless)
    }

    /// A file of `bytes` that can be taken up again by the same `run` (one line); gives the steps that are done.
    pub fn resume(target: &Path, bytes: u64, run: &str, restart: bool) -> Result<(Output, usize)> {
        let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_path_buf());
        let name = target.file_name().ok_or_else(|| format!("{}: is not a file name", target.display()))?;
        let hidden = |end: &str| folder(&target).join(format!(".{}.part{end}", name.to_string_lossy()));
        let beside = hidden("");
        let (note, done) = Note::open(hidden(".run"), run, restart)?;
        let done = if fs::metadata(&beside).is_ok_and(|about| about.len() == bytes) { done } else { 0 };
        let file = OpenOptions::new().write(true).create(true).truncate(done == 0).open(&beside);
        let file = file.map_err(|e| format!("{}: cannot be created: {e}", target.display()))?;
        Ok((Output { file, target, beside, named: true, note: Some(note) }, done))
    }

    /// Forces what was written to the disk, then notes that so many steps are there.
    pub fn mark(&self, steps: usize) -> Result<()> {
        let Some(note) = &self.note else { return Ok(()) };
        let noted = self.file.sync_data().and_then(|()| writeln!(&note.file, "{steps}"));
        noted.and_then(|()| note.file.sync_data()).map_err(|e| self.failed(e))
    }

    fn open(target: &Path, nameless: fn(&Path) -> io::Result<File>) -> Result<Output> {
        // An existing link keeps pointing at its file: that file is replaced, not the link.
        let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_path_buf());
        let failed = |e: io::Error| format!("{}: cannot be created: {e}", target.display());
        let name = target.file_name().ok_or_else(|| format!("{}: is not a file name", target.display()))?;
        let folder = folder(&target);
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.part", std::process::id()));
        let beside = folder.join(hidden);
        if let Ok(file) = nameless(folder) {
            return Ok(Output { file, target, beside, named: false, note: None });
        }
        let file = OpenOptions::new().write(true).create_new(true).open(&beside).map_err(failed)?;
        Ok(Output { file, target, beside, named: true, note: None })
    }

    /// Set the final size first, so that the pieces may come in any order.
    pub fn resize(&self, bytes: u64) -> Result<()> {
        self.file.set_len(bytes).map_err(|e| self.failed(e))
    }

    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|e| self.failed(e))
    }

    /// On the disk first, then in place, in one step; the folder last, so that the name survives a power cut.
    pub fn finish(mut self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.failed(e))?;
        if !self.named {
            give_name(&self.file, &self.beside).map_err(|e| self.failed(e))?;
            self.named = true;
        }
        fs::rename(&self.beside, &self.target).map_err(|e| self.failed(e))?;
        self.named = false;
        if let Some(note) = &self.note {
            let _ = fs::remove_file(&note.path); // the output is complete with it too
        }
        // Some file systems cannot sync a folder; the file itself is safe by now.
        let _ = File::open(folder(&self.target)).and_then(|f| f.sync_all());
        Ok(())
    }

    fn failed(&self, e: io::Error) -> String {
        format!("{}: cannot be written: {e}", self.target.display())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.named && self.note.is_none() {
            let _ = fs::remove_file(&self.beside);
        }
    }
}

fn folder(target: &Path) -> &Path {
    target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(target_os = "linux")]
fn nameless(folder: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(folder)
}

#[cfg(target_os = "linux")]
fn give_name(file: &File, name: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;
    let from = std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let to = std::ffi::CString::new(name.as_os_str().as_bytes())?;
    // SAFETY: two terminated strings that outlive the call. The flag makes the link lead to the file itself.
    let failed = unsafe {
        libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW)
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn nameless(_folder: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn give_name(_file: &File, _name: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a nameless file cannot be had, a hidden one does the same but for a kill.
    #[test]
    fn with_and_without_a_name() {
        let dir = std::env::temp_dir().join(format!("nvfp4-output-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let names = || fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        let target = dir.join("out");
        for nameless in [nameless, |_: &Path| Err(io::ErrorKind::Unsupported.into())] {
            let out = Output::open(&target, nameless).unwrap();
            out.resize(4).unwrap();
            assert!(!target.exists());
            drop(out);
            assert!(names().is_empty(), "an unfinished file goes");
            let out = Output::open(&target, nameless).unwrap();
            out.write_at(b"ab", 2).unwrap();
            out.write_at(b"cd", 0).unwrap();
            out.finish().unwrap();
            assert_eq!(names(), ["out"]);
            assert_eq!(fs::read(&target).unwrap(), b"cdab");
            fs::remove_file(&target).unwrap();
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}

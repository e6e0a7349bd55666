//! Weights that several libraries have prepared from the same source.

use std::ptr::null_mut;

use nvfp4::api::handles::nvfp4_weights;
use nvfp4::api::weights::*;
use nvfp4::ffi::*;

use crate::support::{Library, Memory, check};

/// A handle a library, in their order; destroyed with this value.
pub struct Prepared {
    pub handles: Vec<*mut nvfp4_weights>,
    pub which: usize,
    pub groups: usize,
    pub rows: usize,
    pub cols: usize,
    pub gate_up: bool,
    pub workspace: usize,
}

impl Prepared {
    /// For calls without weights.
    pub fn none() -> Prepared {
        Prepared { handles: Vec::new(), which: 0, groups: 0, rows: 0, cols: 0, gate_up: false, workspace: 0 }
    }

    /// `args` without storage, which is `storage` of each library.
    pub fn in_all(
        libraries: &[Library],
        storage: &mut [Memory],
        args: &nvfp4_weights_prepare_args,
    ) -> Prepared {
        let mut prepared = Prepared::none();
        prepared.groups = args.groups as usize;
        prepared.rows = args.rows as usize;
        prepared.cols = args.cols as usize;
        prepared.gate_up = args.gate_up != 0;
        for (library, storage) in libraries.iter().zip(storage) {
            let mut args = nvfp4_weights_prepare_args { struct_size: size_of_val(args), ..*args };
            let mut handle = null_mut();
            // SAFETY: valid pointers.
            check(unsafe { nvfp4_weights_storage_size(library.context, &args, &mut args.storage_size) })
                .unwrap();
            assert!(args.storage_size <= storage.bytes().len(), "{} bytes of storage", args.storage_size);
            args.storage = storage.ptr_mut();
            library.prepare_weights(&args, &mut handle).unwrap();
            prepared.handles.push(handle);
        }
        prepared
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        for &handle in &self.handles {
            // SAFETY: a live handle.
            let destroyed = check(unsafe { nvfp4_weights_destroy(handle) });
            if !std::thread::panicking() {
                destroyed.unwrap();
            }
        }
    }
}

//! A product over the mock, for tests of its choices and launches.

use std::ptr::null_mut;

use nvfp4::api::gemm::*;
use nvfp4::api::handles::*;
use nvfp4::api::operation::*;
use nvfp4::api::tuning::*;
use nvfp4::api::types::*;
use nvfp4::api::weights::*;
use nvfp4::ffi::*;

use crate::mock::Mock;
use crate::{Buffer, Gpu, ok};

/// What the images say of their parameters: the mock cannot know.
pub fn tell_sizes(mock: &Mock) {
    for kernel in nvfp4::backend::cuda::KERNELS.iter().copied().flatten() {
        let bytes = match (kernel.file, kernel.name) {
            (_, "nvfp4_finish_scales") => 16,
            ("gemm", _) => 240,
            ("gemm_sm90_few", _) => 256,
            ("gemm_sm90_many", _) => 704,
            ("values", _) => 272,
            ("weights", _) => 112,
            ("quantize", name) if name != "nvfp4_stage_routes" => 272,
            _ => continue,
        };
        mock.set_parameter_bytes(kernel.name, bytes);
    }
}

/// Weights of 2 groups and a product with them.
pub struct Product {
    pub weights: *mut nvfp4_weights,
    pub args: nvfp4_grouped_gemm_args,
    _memory: [Buffer; 2],
}

impl Product {
    pub fn new(gpu: &Gpu, flags: u32) -> Product {
        Product::shaped(gpu, flags, (2, 256, 2048))
    }

    pub fn shaped(gpu: &Gpu, flags: u32, (groups, n, k): (usize, usize, usize)) -> Product {
        let (storage, data) = (gpu.buffer(groups * n * k), gpu.buffer(32 << 20));
        let at = |bytes: usize| data.data.wrapping_byte_add(bytes);
        let mut prepare = nvfp4_weights_prepare_args {
            struct_size: size_of::<nvfp4_weights_prepare_args>(),
            groups: groups as i64,
            rows: n as i64,
            cols: k as i64,
            source: NVFP4_WEIGHTS_SOURCE_VALUES,
            src: data.data,
            storage: storage.data,
            ..Default::default()
        };
        let mut weights = null_mut();
        // SAFETY: live handles, memory of the mock.
        unsafe {
            ok(nvfp4_weights_storage_size(gpu.context, &prepare, &mut prepare.storage_size));
            ok(nvfp4_weights_prepare(gpu.context, &prepare, gpu.stream, &mut weights));
        }
        let ends = at(16 << 20);
        let args = nvfp4_grouped_gemm_args {
            struct_size: size_of::<nvfp4_grouped_gemm_args>(),
            weights,
            rows: 8,
            groups: nvfp4_groups {
                grouping: NVFP4_GROUPING_ENDS,
                count: groups as u32,
                ends: ends.cast(),
                ..Default::default()
            },
            a: at(8 << 20),
            out: at(12 << 20),
            flags,
            workspace: at(20 << 20),
            workspace_size: 8 << 20,
            ..Default::default()
        };
        Product { weights, args, _memory: [storage, data] }
    }

    /// Runs it; (kernel, bytes of workspace).
    pub fn run(&self, gpu: &Gpu, mock: &Mock) -> (String, usize) {
        let mut bytes = usize::MAX;
        // SAFETY: live handles, memory of the mock.
        unsafe {
            ok(nvfp4_grouped_gemm_workspace_size(gpu.context, &self.args, &mut bytes));
            ok(nvfp4_grouped_gemm(gpu.context, &self.args, gpu.stream));
        }
        (mock.last_kernel(), bytes)
    }

    pub fn tune(&self, gpu: &Gpu) -> (i32, nvfp4_tune_result) {
        let args = nvfp4_tune_args {
            struct_size: size_of::<nvfp4_tune_args>(),
            operation: NVFP4_OPERATION_GROUPED_GEMM,
            repeats: 3,
            args: (&raw const self.args).cast(),
        };
        let mut result =
            nvfp4_tune_result { struct_size: size_of::<nvfp4_tune_result>(), ..Default::default() };
        // SAFETY: live handles, memory of the mock.
        (unsafe { nvfp4_tune(gpu.context, &args, gpu.stream, &mut result) }, result)
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: a handle of this value.
        ok(unsafe { nvfp4_weights_destroy(self.weights) });
    }
}

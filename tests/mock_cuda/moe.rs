//! What a CUDA context does not carry out yet is refused as a whole.

use nvfp4::api::moe::permute::*;
use nvfp4::api::moe::route::*;
use nvfp4::error::*;
use nvfp4::ffi::*;

use crate::mock::mock;
use crate::{Gpu, refused};

#[test]
fn a_mixture_of_experts_is_refused_before_anything_is_launched() {
    let (_turn, mock) = mock();
    let gpu = Gpu::prepared(0);
    let data = gpu.buffer(4096);
    let at = |bytes: usize| data.data.wrapping_byte_add(bytes);
    let route = nvfp4_moe_route_args {
        struct_size: size_of::<nvfp4_moe_route_args>(),
        logits: at(0),
        topk: 1,
        tokens: 2,
        experts: 4,
        topk_ids: at(64).cast(),
        topk_weights: at(128).cast(),
        ..Default::default()
    };
    // Two steps: neither is begun.
    let permute = nvfp4_moe_permute_args {
        struct_size: size_of::<nvfp4_moe_permute_args>(),
        tokens: 2,
        experts: 4,
        topk: 1,
        topk_ids: at(64).cast(),
        ends: at(192).cast(),
        source_rows: at(256).cast(),
        inverse: at(320).cast(),
        cols: 16,
        src: at(512),
        gathered: at(1024),
        ..Default::default()
    };
    let launches = mock.launches();
    let what = "a mixture of experts on a CUDA context is not supported";
    // SAFETY: valid pointers.
    unsafe {
        let status = nvfp4_moe_route(gpu.context, &route, gpu.stream);
        refused(status, NVFP4_STATUS_UNSUPPORTED, what);
        let status = nvfp4_moe_permute(gpu.context, &permute, gpu.stream);
        refused(status, NVFP4_STATUS_UNSUPPORTED, what);
    }
    assert_eq!(mock.launches(), launches);
    drop((data, gpu));
    assert_eq!(mock.leaks(), "");
}

//! What a mixture of experts launches, and what becomes of a step that the driver refuses.

use std::ffi::c_void;

use nvfp4::api::moe::combine::*;
use nvfp4::api::moe::permute::*;
use nvfp4::api::moe::route::*;
use nvfp4::api::types::*;
use nvfp4::error::*;
use nvfp4::ffi::*;

use crate::mock::{Mock, mock};
use crate::{Gpu, ok, refused};

const BYTES: usize = 1 << 20;

/// What the images say of their parameters: the mock cannot know.
fn tell_sizes(mock: &Mock) {
    for (kernel, bytes) in [
        ("nvfp4_moe_route", 96),
        ("nvfp4_moe_route_many", 96),
        ("nvfp4_moe_count", 80),
        ("nvfp4_moe_place", 80),
        ("nvfp4_moe_sources", 80),
        ("nvfp4_moe_route_few", 96),
        ("nvfp4_moe_scatter", 64),
        ("nvfp4_moe_dispatch", 248),
        ("nvfp4_moe_dispatch_bf16", 496),
        ("nvfp4_moe_scatter_bf16", 312),
        ("nvfp4_moe_tokens_bf16", 312),
        ("nvfp4_moe_turn_128x4", 312),
        ("nvfp4_moe_combine_bf16", 120),
        ("nvfp4_moe_combine_any", 120),
    ] {
        mock.set_parameter_bytes(kernel, bytes);
    }
}

fn at<T>(base: *mut c_void, bytes: usize) -> *mut T {
    base.wrapping_byte_add(bytes).cast()
}

fn route(base: *mut c_void, experts: i64) -> nvfp4_moe_route_args {
    nvfp4_moe_route_args {
        struct_size: size_of::<nvfp4_moe_route_args>(),
        logits: at(base, 0),
        topk: 2,
        tokens: 3,
        experts,
        topk_ids: at(base, 1 << 16),
        topk_weights: at(base, 1 << 17),
        ..Default::default()
    }
}

/// Gathers values of 16 columns.
fn permute(base: *mut c_void, tokens: i64) -> nvfp4_moe_permute_args {
    nvfp4_moe_permute_args {
        struct_size: size_of::<nvfp4_moe_permute_args>(),
        tokens,
        experts: 4,
        topk: 1,
        topk_ids: at(base, 0),
        ends: at(base, 1 << 16),
        source_rows: at(base, 2 << 16),
        inverse: at(base, 3 << 16),
        cols: 16,
        src: at(base, 4 << 16),
        gathered: at(base, 8 << 16),
        ..Default::default()
    }
}

#[test]
fn each_part_launches_its_kernels() {
    let (_turn, mock) = mock();
    tell_sizes(mock);
    let gpu = Gpu::prepared(0);
    let data = gpu.buffer(BYTES);
    let base = data.data;
    let launched = |status: i32| {
        ok(status);
        mock.last_kernel()
    };
    // SAFETY: valid pointers.
    unsafe {
        assert_eq!(
            launched(nvfp4_moe_route(gpu.context, &route(base, 257), gpu.stream)),
            "nvfp4_moe_route_few"
        );
        for (experts, kernel) in [(8, "nvfp4_moe_route"), (257, "nvfp4_moe_route_many")] {
            // Few tokens with many groups of experts, or many tokens.
            let grouped =
                |r: &mut nvfp4_moe_route_args| (r.router.groups, r.router.top_groups) = (experts as u32, 2);
            let mut args = nvfp4_moe_route_args { tokens: 1025, ..route(base, experts) };
            if experts > 32 {
                (args.tokens, args.topk) = (3, 2);
                grouped(&mut args);
            }
            assert_eq!(launched(nvfp4_moe_route(gpu.context, &args, gpu.stream)), kernel);
        }

        // A short sort is one launch, a long one three; the gathering is one more, but for few slots.
        let scatter = "nvfp4_moe_scatter";
        let cases = [(5, 1, "nvfp4_moe_dispatch"), (257, 2, scatter), (4096, 2, scatter), (4097, 4, scatter)];
        for (tokens, launches, last) in cases {
            let before = mock.launches();
            let args = permute(base, tokens);
            assert_eq!(launched(nvfp4_moe_permute(gpu.context, &args, gpu.stream)), last);
            assert_eq!(mock.launches() - before, launches, "{tokens} tokens");
        }
        let mut bytes = 1;
        ok(nvfp4_moe_permute_workspace_size(gpu.context, &permute(base, 4097), &mut bytes));
        assert_eq!(bytes, 0);
        let sorts = nvfp4_moe_permute_args {
            cols: 0,
            src: std::ptr::null(),
            gathered: std::ptr::null_mut(),
            ..permute(base, 4097)
        };
        assert_eq!(launched(nvfp4_moe_permute(gpu.context, &sorts, gpu.stream)), "nvfp4_moe_sources");
        let quantizes = nvfp4_moe_permute_args {
            gathered: std::ptr::null_mut(),
            out: nvfp4_quantized {
                codes: at(base, 9 << 16),
                scales: at(base, 10 << 16),
                scope: NVFP4_SCOPE_ROW,
                decode_scales: at(base, 11 << 16),
                ..Default::default()
            },
            ..permute(base, 5)
        };
        let status = nvfp4_moe_permute(gpu.context, &quantizes, gpu.stream);
        assert_eq!(launched(status), "nvfp4_moe_dispatch_bf16");
        let more = nvfp4_moe_permute_args { tokens: 300, ..quantizes };
        assert_eq!(launched(nvfp4_moe_permute(gpu.context, &more, gpu.stream)), "nvfp4_moe_scatter_bf16");
        // One launch sorts, one quantizes, one makes tiles.
        let tiles = nvfp4_moe_permute_args {
            tokens: 1100,
            cols: 256,
            out: nvfp4_quantized {
                codes: at(base, 13 << 16),
                scales: at(base, 0xF4000),
                decode_scales: at(base, 0xFC000),
                scale_layout: NVFP4_SCALE_LAYOUT_TILED_128X4,
                ..quantizes.out
            },
            ..quantizes
        };
        let before = mock.launches();
        assert_eq!(launched(nvfp4_moe_permute(gpu.context, &tiles, gpu.stream)), "nvfp4_moe_turn_128x4");
        assert_eq!(mock.launches() - before, 3);

        let mut combine = nvfp4_moe_combine_args {
            struct_size: size_of::<nvfp4_moe_combine_args>(),
            tokens: 2,
            cols: 64,
            topk: 1,
            rows: 2,
            y: at(base, 0),
            inverse: at(base, 1 << 16),
            topk_weights: at(base, 2 << 16),
            out: at(base, 3 << 16),
            ..Default::default()
        };
        let status = nvfp4_moe_combine(gpu.context, &combine, gpu.stream);
        assert_eq!(launched(status), "nvfp4_moe_combine_bf16");
        combine.cols = 63;
        let status = nvfp4_moe_combine(gpu.context, &combine, gpu.stream);
        assert_eq!(launched(status), "nvfp4_moe_combine_any");

        // Nothing to do is no launch.
        let before = mock.launches();
        combine.tokens = 0;
        ok(nvfp4_moe_combine(gpu.context, &combine, gpu.stream));
        let none = nvfp4_moe_route_args { tokens: 0, ..route(base, 4) };
        ok(nvfp4_moe_route(gpu.context, &none, gpu.stream));
        assert_eq!(mock.launches(), before);
    }
    drop((data, gpu));
    assert_eq!(mock.leaks(), "");
}

#[test]
fn a_refused_step_ends_the_call() {
    let (_turn, mock) = mock();
    tell_sizes(mock);
    let gpu = Gpu::prepared(0);
    let data = gpu.buffer(BYTES);
    let args = permute(data.data, 4097);
    for step in 0..4 {
        let before = mock.launches();
        mock.fail("cuLaunchKernelEx", step, 999);
        // SAFETY: valid pointers.
        unsafe {
            let status = nvfp4_moe_permute(gpu.context, &args, gpu.stream);
            refused(status, NVFP4_STATUS_DEVICE_ERROR, "cuLaunchKernelEx failed with");
            assert_eq!(mock.launches() - before, step as i64);
            // The context goes on.
            ok(nvfp4_moe_permute(gpu.context, &args, gpu.stream));
        }
    }
    drop((data, gpu));
    assert_eq!(mock.leaks(), "");
}

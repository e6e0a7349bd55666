//! What is told of a backend and its device, with a context or without.

use super::context::*;
use crate::backend::cpu::kernels::Isa;
use crate::backend::cuda;
use crate::error::{Error, Result};

/// What is known of a backend's device without creating a context.
pub fn backend_info(backend: nvfp4_backend, device: u32) -> Result<nvfp4_backend_info> {
    match backend {
        NVFP4_BACKEND_CPU if device == 0 => {
            Ok(cpu_info(Isa::detect(), std::thread::available_parallelism().map_or(1, |n| n.get())))
        }
        NVFP4_BACKEND_CPU => Err(Error::OutOfRange {
            argument: "device",
            value: device.to_string(),
            range: "0 for the CPU".into(),
        }),
        NVFP4_BACKEND_CUDA => Ok(match cuda::context::describe(device) {
            Ok(found) => {
                let (major, minor) = found.compute_capability;
                cuda_info(1, found.count, &format!("{}, compute {major}.{minor}", found.name))
            }
            Err(error) => cuda_info(0, 0, cuda::context::why_missing(&error)),
        }),
        value => Err(Error::UnknownValue { argument: "backend", value, known: BACKENDS }),
    }
}

pub(super) fn cuda_info(available: u32, device_count: u32, name: &str) -> nvfp4_backend_info {
    let mut info =
        nvfp4_backend_info { backend: NVFP4_BACKEND_CUDA, available, device_count, ..Default::default() };
    set_name(&mut info, name);
    info
}

pub(super) fn cpu_info(isa: Isa, threads: usize) -> nvfp4_backend_info {
    let mut info = nvfp4_backend_info {
        backend: NVFP4_BACKEND_CPU,
        available: 1,
        device_count: 1,
        threads: threads as u32,
        isa: match isa {
            Isa::Portable => NVFP4_ISA_PORTABLE,
            Isa::Avx2 => NVFP4_ISA_AVX2,
            Isa::Avx512 => NVFP4_ISA_AVX512,
        },
        ..Default::default()
    };
    set_name(&mut info, &format!("CPU, {}, {threads} threads", isa.name()));
    info
}

fn set_name(info: &mut nvfp4_backend_info, name: &str) {
    let last = info.name.len() - 1;
    for (to, &from) in info.name[..last].iter_mut().zip(name.as_bytes()) {
        *to = from as core::ffi::c_char;
    }
}

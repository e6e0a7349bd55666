//! `nvfp4 doctor`: versions, processor, driver, GPUs, kernel images and environment → a report that says what works and,
//! where something does not, the next step.

use crate::report;
use crate::{Result, quantize::pretty};
use nvfp4::api::context::{Context, nvfp4_backend_info, nvfp4_context_options, nvfp4_prepare_args};
use nvfp4::api::context::{NVFP4_BACKEND_CPU, NVFP4_BACKEND_CUDA};
use nvfp4::api::info::backend_info;
use nvfp4::backend::cuda::module::IMAGES;
use nvfp4::ffi::version::NVFP4_ABI_VERSION;
use serde_json::json;
use std::path::Path;

#[derive(clap::Args)]
pub struct Args {
    /// Print JSON instead of lines
    #[arg(long)]
    json: bool,
}

/// Variables that decide what the driver, the loader or this project's build does.
const VARIABLES: [&str; 6] = [
    "CUDA_VISIBLE_DEVICES",
    "CUDA_MODULE_LOADING",
    "CUDA_HOME",
    "LD_LIBRARY_PATH",
    "NVFP4_LIBRARY",
    "NVFP4_KERNELS",
];

struct Line {
    what: &'static str,
    good: bool,
    found: String,
    next: Option<String>,
}

fn good(what: &'static str, found: impl Into<String>) -> Line {
    Line { what, good: true, found: found.into(), next: None }
}

fn bad(what: &'static str, found: impl Into<String>, next: impl Into<String>) -> Line {
    Line { what, good: false, found: found.into(), next: Some(next.into()) }
}

pub fn run(args: &Args) -> Result<()> {
    let lines = examine();
    let text = if args.json {
        let one = |l: &Line| json!({ "what": l.what, "good": l.good, "found": l.found, "next": l.next });
        pretty(&json!(lines.iter().map(one).collect::<Vec<_>>()))
    } else {
        let rows: Vec<Vec<String>> = lines
            .iter()
            .flat_map(|l| {
                let mark = if l.good { "ok" } else { "--" };
                let first = vec![mark.to_string(), l.what.to_string(), l.found.clone()];
                let next = l.next.iter().map(|n| vec![String::new(), String::new(), format!("→ {n}")]);
                std::iter::once(first).chain(next).collect::<Vec<_>>()
            })
            .collect();
        report::table(&rows, &[])
    };
    report::print(&text);
    Ok(())
}

fn examine() -> Vec<Line> {
    let mut lines = vec![
        good(
            "nvfp4",
            format!("{}, ABI {NVFP4_ABI_VERSION}, {}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH),
        ),
        cpu(),
    ];
    lines.push(images());
    let driver = driver_file();
    lines.push(match &driver {
        Some(version) => good("driver", version.clone()),
        None => bad(
            "driver",
            "no NVIDIA kernel module is loaded",
            "install a driver of R580 or newer for GPU work",
        ),
    });
    let devices = (0..).map_while(|ordinal| device(ordinal, driver.is_some()));
    lines.extend(devices.collect::<Vec<_>>());
    let set = VARIABLES.iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)));
    let set: Vec<String> = set.map(|s| report::shown(&s)).collect();
    lines.push(good("environment", if set.is_empty() { "nothing set".into() } else { set.join(" ") }));
    lines
}

fn name(info: &nvfp4_backend_info) -> String {
    let bytes: Vec<u8> = info.name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn cpu() -> Line {
    match backend_info(NVFP4_BACKEND_CPU, 0) {
        Ok(info) if name(&info).contains("portable") => {
            bad("CPU", name(&info), "a processor with AVX2, FMA and F16C is many times faster")
        }
        Ok(info) => good("CPU", name(&info)),
        Err(e) => bad("CPU", e.to_string(), "report this"),
    }
}

/// What the build embedded; a placeholder is an image of no bytes to speak of.
fn images() -> Line {
    let held: Vec<_> = IMAGES.iter().filter(|i| i.bytes.len() > 64).collect();
    let build = "build with the cargo feature `cuda` and a CUDA 13 compiler (./run toolkit)";
    match held.first() {
        None => bad("kernel images", "none: this build has the CPU backend only", build),
        Some(first) => {
            let bytes: usize = held.iter().map(|i| i.bytes.len()).sum();
            let files = held.len();
            good(
                "kernel images",
                format!("{files} files, {}, for {}", report::size(bytes as u64), first.targets),
            )
        }
    }
}

/// The kernel module's own words, of which the version is the number.
fn driver_file() -> Option<String> {
    let text = std::fs::read_to_string(Path::new("/proc/driver/nvidia/version")).ok()?;
    let line = text.lines().next()?;
    let version =
        line.split_whitespace().find(|w| w.split('.').count() >= 2 && w.as_bytes()[0].is_ascii_digit());
    Some(version.unwrap_or(line).to_string())
}

/// A GPU as the library sees it, made ready for work; none past the last.
fn device(ordinal: u32, driver: bool) -> Option<Line> {
    let info = match backend_info(NVFP4_BACKEND_CUDA, ordinal) {
        Ok(info) => info,
        Err(e) => return (ordinal == 0).then(|| bad("GPU", e.to_string(), "report this")),
    };
    if info.available == 0 {
        let next = match driver {
            _ if name(&info).contains("this build") => "use a build with the cargo feature `cuda`",
            true => {
                "update the driver to R580 or newer; check CUDA_VISIBLE_DEVICES and the device files in /dev"
            }
            false => "the CPU backend works without one",
        };
        return (ordinal == 0).then(|| bad("GPU", name(&info), next));
    }
    let options = nvfp4_context_options {
        struct_size: size_of::<nvfp4_context_options>(),
        backend: NVFP4_BACKEND_CUDA,
        device: ordinal,
        ..Default::default()
    };
    let args = nvfp4_prepare_args { struct_size: size_of::<nvfp4_prepare_args>(), ..Default::default() };
    let ready = Context::create(&options).and_then(|c| c.prepare(&args, None).map(|()| c.loaded_report()));
    Some(match ready {
        Ok(kernels) => good("GPU", format!("{}; kernels: {}", name(&info), kernels.unwrap_or_default())),
        Err(e) => bad(
            "GPU",
            format!("{}: {e}", name(&info)),
            "see the message; `nvidia-smi` shows other users of the GPU",
        ),
    })
}

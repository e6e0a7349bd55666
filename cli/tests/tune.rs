//! `nvfp4 tune` where there is no GPU says what is missing, and refuses shapes that are none.

use std::process::{Command, Output};

fn tune(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nvfp4")).arg("tune").args(words).output().expect("the command runs")
}

#[test]
fn without_a_gpu_it_says_what_is_missing() {
    if !cfg!(feature = "cuda") {
        let file = std::env::temp_dir().join(format!("nvfp4-tune-{}.txt", std::process::id()));
        let output = tune(&["8x64x64", "--output", file.to_str().unwrap()]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains("the CUDA backend in this build") && text.contains("cargo feature `cuda`"),
            "{text}"
        );
        assert!(!file.exists(), "a file was written");
    }
}

#[test]
fn shapes_that_are_none_are_wrong_usage() {
    for shape in ["8x64", "8x64x0", "axbxc", "8x64x64x64", "-1x2x3"] {
        let output = tune(&["--output", "tuning.txt", "--", shape]);
        assert_eq!(output.status.code(), Some(2), "{shape}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

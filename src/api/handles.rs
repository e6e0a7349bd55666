#![allow(non_camel_case_types)]
pub struct nvfp4_weights {
    _opaque: [u8; 0],
}

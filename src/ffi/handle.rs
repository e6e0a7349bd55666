//! The table behind every handle. A handle is a ticket, kind | generation | index, never an address: a stale, foreign
//! or made-up one is refused by comparison and nothing is followed.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::api::buffer::Buffer;
use crate::api::context::Context;
use crate::api::event::Event;
use crate::api::graph::Graph;
use crate::api::handles::*;
use crate::api::stream::Stream;
use crate::api::weights::Weights;
use crate::error::{Error, Result};

/// What a ticket stands for.
pub enum Object {
    Context(Context),
    Stream(Stream),
    Event(Event),
    Graph(Graph),
    Buffer(Buffer),
    Weights(Weights),
}

/// An object type with a C handle type of its own.
pub trait Handle: Clone {
    type Opaque;
    /// Highest byte of its tickets: no user-space address has one.
    const KIND: u8;
    const NAME: &'static str;
    fn wrap(self) -> Object;
    fn of(object: &Object) -> Option<&Self>;
}

macro_rules! handles {
    ($($variant:ident $opaque:ident $kind:literal $name:literal),+ $(,)?) => {$(
        impl Handle for $variant {
            type Opaque = $opaque;
            const KIND: u8 = $kind;
            const NAME: &'static str = $name;
            fn wrap(self) -> Object { Object::$variant(self) }
            fn of(object: &Object) -> Option<&Self> {
                match object { Object::$variant(inner) => Some(inner), _ => None }
            }
        }
    )+};
}

handles!(
    Context nvfp4_context 0xC1 "nvfp4_context",
    Stream nvfp4_stream 0xC2 "nvfp4_stream",
    Event nvfp4_event 0xC3 "nvfp4_event",
    Graph nvfp4_graph 0xC4 "nvfp4_graph",
    Buffer nvfp4_buffer 0xC5 "nvfp4_buffer",
    Weights nvfp4_weights 0xC6 "nvfp4_weights",
);

#[derive(Default)]
struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

struct Slot {
    /// Of the object in it, or of the next one. None comes twice: a slot that has used all of them is retired.
    generation: u32,
    object: Option<Object>,
}

static TABLE: RwLock<Table> = RwLock::new(Table { slots: Vec::new(), free: Vec::new() });

const GENERATION_BITS: u32 = 24;

fn ticket(kind: u8, generation: u32, index: u32) -> usize {
    (kind as usize) << 56 | (generation as usize) << 32 | index as usize
}

fn read() -> RwLockReadGuard<'static, Table> {
    TABLE.read().unwrap_or_else(PoisonError::into_inner)
}

fn write() -> RwLockWriteGuard<'static, Table> {
    TABLE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Registers an object and hands out its ticket.
pub fn create<T: Handle>(value: T) -> *mut T::Opaque {
    let mut table = write();
    let index = table.free.pop().unwrap_or_else(|| {
        table.slots.push(Slot { generation: 1, object: None });
        (table.slots.len() - 1) as u32
    });
    let slot = &mut table.slots[index as usize];
    slot.object = Some(value.wrap());
    std::ptr::without_provenance_mut(ticket(T::KIND, slot.generation, index))
}

/// The object of a ticket.
pub fn get<T: Handle>(argument: &'static str, handle: *const T::Opaque) -> Result<T> {
    let index = index_of::<T>(argument, handle)?;
    let table = read();
    let slot = table.slots.get(index).filter(|slot| is_current::<T>(slot, handle, index));
    slot.and_then(|slot| slot.object.as_ref()).and_then(T::of).cloned().ok_or(stale::<T>(argument))
}

/// Takes an object out of the table; its ticket is worthless from then on. `check` may refuse first.
pub fn destroy<T: Handle>(
    argument: &'static str,
    handle: *const T::Opaque,
    check: impl FnOnce(&T) -> Result<()>,
) -> Result<()> {
    let index = index_of::<T>(argument, handle)?;
    let mut table = write();
    let slot = table.slots.get_mut(index).filter(|slot| is_current::<T>(slot, handle, index));
    let slot = slot.ok_or(stale::<T>(argument))?;
    check(slot.object.as_ref().and_then(T::of).ok_or(stale::<T>(argument))?)?;
    let object = slot.object.take();
    slot.generation += 1;
    if slot.generation < 1 << GENERATION_BITS {
        table.free.push(index as u32);
    }
    // What the object owns is released outside of the lock.
    drop(table);
    drop(object);
    Ok(())
}

fn index_of<T: Handle>(argument: &'static str, handle: *const T::Opaque) -> Result<usize> {
    let bits = handle.addr();
    let problem = match bits {
        0 => "it is NULL",
        _ if bits >> 56 == T::KIND as usize => return Ok(bits & 0xFFFF_FFFF),
        _ if (0xC1..=0xC6).contains(&(bits >> 56)) => "it is a handle of another kind",
        _ => "it was never a handle",
    };
    Err(Error::Handle { argument, kind: T::NAME, problem })
}

fn is_current<T: Handle>(slot: &Slot, handle: *const T::Opaque, index: usize) -> bool {
    slot.object.is_some() && handle.addr() == ticket(T::KIND, slot.generation, index as u32)
}

fn stale<T: Handle>(argument: &'static str) -> Error {
    Error::Handle { argument, kind: T::NAME, problem: "it was destroyed or never created" }
}

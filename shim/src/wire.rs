//! A few lines of serialisation: fields in order, lengths before what varies. Chosen over a serialisation crate because the
//! shim's size is counted once for every pod.

/// Bytes that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// A value with a fixed encoding.
pub trait Wire: Sized {
    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);
    /// Takes the value off the front of `input`.
    fn take(input: &mut &[u8]) -> Result<Self, Malformed>;

    /// The value's bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    /// The value that `input` holds, to its last byte.
    fn from_bytes(mut input: &[u8]) -> Result<Self, Malformed> {
        let value = Self::take(&mut input)?;
        if input.is_empty() { Ok(value) } else { Err(Malformed) }
    }
}

fn split<'a>(input: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (head, tail) = input.split_at_checked(count).ok_or(Malformed)?;
    *input = tail;
    Ok(head)
}

macro_rules! numbers {
    ($($number:ty),*) => { $(
        impl Wire for $number {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
                let bytes = split(input, size_of::<$number>())?;
                Ok(<$number>::from_le_bytes(bytes.try_into().map_err(|_| Malformed)?))
            }
        }
    )* };
}

numbers!(u8, u16, u32, u64, i32, i64);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        match u8::take(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        out.extend_from_slice(self.as_bytes());
    }
    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        let length = u32::take(input)? as usize;
        String::from_utf8(split(input, length)?.to_vec()).map_err(|_| Malformed)
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        self.iter().for_each(|item| item.put(out));
    }
    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        // No capacity is reserved on the sender's word alone.
        let count = u32::take(input)?;
        (0..count).map(|_| T::take(input)).collect()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(if bool::take(input)? { Some(T::take(input)?) } else { None })
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok((A::take(input)?, B::take(input)?))
    }
}

/// Declares structs with their encoding.
macro_rules! messages {
    ($($(#[$meta:meta])* struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }
        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) { $($crate::wire::Wire::put(&self.$field, out);)* }
            fn take(input: &mut &[u8]) -> Result<Self, $crate::wire::Malformed> {
                Ok($name { $($field: $crate::wire::Wire::take(input)?,)* })
            }
        }
    )* };
}

/// Declares enums, each variant holding at most one value, with a tag byte before it.
macro_rules! choices {
    ($($(#[$meta:meta])* enum $name:ident { $($(#[$variant_meta:meta])* $tag:literal $variant:ident $(($type:ty))?,)* })*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $name { $($(#[$variant_meta])* $variant $(($type))? = $tag,)* }
        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self { $(choices!(@bind $name $variant value $($type)?) => {
                    out.push($tag);
                    choices!(@put value out $($type)?);
                })* }
            }
            fn take(input: &mut &[u8]) -> Result<Self, $crate::wire::Malformed> {
                match <u8 as $crate::wire::Wire>::take(input)? {
                    $($tag => Ok(choices!(@take $name $variant input $($type)?)),)*
                    _ => Err($crate::wire::Malformed),
                }
            }
        }
    )* };
    (@bind $name:ident $variant:ident $value:ident) => { $name::$variant };
    (@bind $name:ident $variant:ident $value:ident $type:ty) => { $name::$variant($value) };
    (@put $value:ident $out:ident) => {};
    (@put $value:ident $out:ident $type:ty) => { $crate::wire::Wire::put($value, $out) };
    (@take $name:ident $variant:ident $input:ident) => { $name::$variant };
    (@take $name:ident $variant:ident $input:ident $type:ty) => { $name::$variant(<$type as $crate::wire::Wire>::take($input)?) };
}

pub(crate) use {choices, messages};

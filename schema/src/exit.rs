//! The shape of a program's table of exit codes (PROTOCOL.md 12). Which codes it has, and what
//! they mean, each program says itself.

/// Makes `Exit` of lines `Name = code, "meaning";`, each with its own doc, in ascending order.
#[macro_export]
macro_rules! exits {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $meaning:literal;)*) => {
        /// How a run ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Exit {
            $($(#[$doc])* $variant,)*
        }

        impl Exit {
            /// Every code, ascending.
            pub const ALL: &[Exit] = &[$(Exit::$variant,)*];

            /// The number a script sees.
            #[must_use]
            pub fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)* }
            }

            /// What the number means.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

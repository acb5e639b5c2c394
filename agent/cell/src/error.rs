//! Why a component is not loaded, and why a loaded one does not start. Nothing has run when a [`LoadError`] comes.

use porin_core::fault::Fault;

/// Why a component is refused. Each is found before anything is instantiated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Checked before a byte is parsed.
    #[error("the component has {bytes} bytes, a cell may have {limit}")]
    TooLarge {
        /// The size of the file.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The bytes are not WebAssembly, or end too early.
    #[error("not a component: {message} (at byte {offset})")]
    Malformed {
        /// What the parser says.
        message: String,
        /// Where.
        offset: usize,
    },
    /// A core module. It has no types that could be checked.
    #[error("a core module, not a component (`porin cell build` makes components)")]
    CoreModule,
    /// The component breaks a rule of WebAssembly.
    #[error("invalid: {message} (at byte {offset})")]
    Invalid {
        /// What the validator says.
        message: String,
        /// Where.
        offset: usize,
    },
    /// Code would run before the first call.
    #[error("it has a start function; cells begin with `init`")]
    StartFunction,
    /// A part of the component model that cells do not use.
    #[error("it uses {0}, which cells cannot")]
    Unsupported(&'static str),
    /// An import that no world offers.
    #[error("it imports `{0}`, which no cell can be granted")]
    UnknownImport(String),
    /// An import that the world offers with another type.
    #[error("its import `{0}` has another type than in the world `{1}`")]
    ImportType(String, &'static str),
    /// The world asks for an export that is not there.
    #[error("it has no export `{0}`, which the world `{1}` asks for")]
    MissingExport(&'static str, &'static str),
    /// An export with another type than the world's.
    #[error("its export `{0}` has another type than in the world `{1}`")]
    ExportType(&'static str, &'static str),
    /// More of something than a cell may have, counted before anything is compiled.
    #[error("it has {count} {what}, a cell may have {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// wasmi refuses a core module: its limits on size and shape, or a feature that is off.
    #[error("it does not compile: {0}")]
    Compile(String),
}

/// Why a loaded component does not become a running cell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The component asks for what its slot was not granted.
    #[error("it imports `{import}`, which the slot does not grant")]
    NotGranted {
        /// The import as the component names it.
        import: &'static str,
        /// The line of the configuration that would grant it.
        grant: &'static str,
    },
    /// It begins with more memory than its slot allows: often the compiler's default stack.
    #[error(
        "it begins with {pages} pages of memory of 64 KiB, the slot allows {allowed} (limits.memory_pages); a smaller stack may do: \
         link with `-z stack-size=16384`"
    )]
    Memory {
        /// Pages that it begins with.
        pages: u64,
        /// Pages that the slot allows, with what its streams add.
        allowed: u64,
    },
    /// The core modules cannot be linked or instantiated within the limits.
    #[error("it cannot be instantiated: {0}")]
    Instantiate(String),
    /// `init` failed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// `init` says that the parameters are wrong.
    #[error("{0}")]
    Refused(String),
}

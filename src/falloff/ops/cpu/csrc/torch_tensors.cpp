#include "torch_tensors.h"

#include <nanobind/ndarray.h>

#include <algorithm>
#include <stdexcept>
#include <string>

namespace nb = nanobind;

namespace falloff {
namespace {

// Torch's table of C functions to exchange tensors (DLPack 1.3, `torch.Tensor.__dlpack_c_exchange_api__`), as far as it is used
// here: it reads a tensor in the time of one method.
struct Exchange {
    struct {
        uint32_t major, minor;
        void* previous;
    } header;
    void *allocate, *managed_from_python, *managed_to_python;
    int (*from_python)(void* object, nb::dlpack::dltensor* to);
};

const Exchange* find_exchange(const nb::object& tensor_type) {
    const nb::object capsule = nb::getattr(tensor_type, "__dlpack_c_exchange_api__", nb::none());
    if (capsule.is_none()) return nullptr;
    const auto* found = static_cast<const Exchange*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (!found) PyErr_Clear();
    return found && found->header.major == 1 ? found : nullptr;
}

Dtype dtype_of(nb::dlpack::dtype dlpack) {
    constexpr struct {
        nb::dlpack::dtype_code code;
        int bits;
        Dtype dtype;
    } known[] = {
        {nb::dlpack::dtype_code::Float, 32, Dtype::float32}, {nb::dlpack::dtype_code::Bfloat, 16, Dtype::bfloat16},
        {nb::dlpack::dtype_code::Bool, 8, Dtype::boolean},   {nb::dlpack::dtype_code::UInt, 8, Dtype::uint8},
        {nb::dlpack::dtype_code::Int, 8, Dtype::int8},       {nb::dlpack::dtype_code::Int, 16, Dtype::int16},
        {nb::dlpack::dtype_code::Int, 32, Dtype::int32},     {nb::dlpack::dtype_code::Int, 64, Dtype::int64},
    };
    for (const auto& one : known)
        if (dlpack.code == uint8_t(one.code) && dlpack.bits == one.bits && dlpack.lanes == 1) return one.dtype;
    return Dtype::other;
}

// Kept as long as the process: Python may be gone before static objects are.
struct Torch {
    nb::object tensor, parameter, data_ptr, storage_offset, stride, untyped_storage, nbytes, shape, dtype, is_cpu;
    std::vector<std::pair<nb::object, Dtype>> dtypes;
    const Exchange* exchange;

    Torch() {
        const nb::module_ torch = nb::module_::import_("torch");
        tensor = torch.attr("Tensor"), parameter = torch.attr("nn").attr("Parameter");
        const nb::object base = torch.attr("_C").attr("TensorBase");
        data_ptr = base.attr("data_ptr"), storage_offset = base.attr("storage_offset"), stride = base.attr("stride");
        untyped_storage = base.attr("untyped_storage");
        nbytes = torch.attr("_C").attr("StorageBase").attr("nbytes");
        shape = base.attr("shape").attr("__get__"), dtype = base.attr("dtype").attr("__get__");
        is_cpu = base.attr("is_cpu").attr("__get__");
        const std::pair<const char*, Dtype> names[] = {
            {"float32", Dtype::float32}, {"bfloat16", Dtype::bfloat16}, {"bool", Dtype::boolean}, {"uint8", Dtype::uint8},
            {"int8", Dtype::int8},       {"int16", Dtype::int16},       {"int32", Dtype::int32},  {"int64", Dtype::int64},
        };
        for (const auto& [name, is] : names) dtypes.emplace_back(torch.attr(name), is);
        exchange = find_exchange(tensor);
    }
};

const Torch& torch() {
    static const Torch* const found = new Torch;
    return *found;
}

// Calls a method of one argument.
nb::object ask(const nb::object& method, nb::handle of) {
    PyObject* answer = PyObject_CallFunctionObjArgs(method.ptr(), of.ptr(), nullptr);
    if (!answer) throw nb::python_error();
    return nb::steal(answer);
}

int64_t integer(nb::handle number) {
    const long long value = PyLong_AsLongLong(number.ptr());
    if (value == -1 && PyErr_Occurred()) throw nb::python_error();
    return value;
}

size_t integers(const nb::object& tuple, int64_t* to, size_t most) {
    const Py_ssize_t count = PyTuple_Size(tuple.ptr());
    if (count < 0) throw nb::python_error();
    for (Py_ssize_t i = 0; i < count && size_t(i) < most; i++) to[i] = integer(PyTuple_GetItem(tuple.ptr(), i));
    return size_t(count);
}

// The first facts about a tensor. Its sizes and strides are written to `shape` and `strides`, at most `most` of them.
struct Facts {
    bool on_cpu;
    void* data;
    Dtype dtype;
    size_t ndim;
};

Facts read_by_methods(const Torch& t, nb::handle object, int64_t* shape, int64_t* strides, size_t most) {
    if (!ask(t.is_cpu, object).is(nb::handle(Py_True))) return {};
    Facts facts{true, nullptr, Dtype::other, integers(ask(t.shape, object), shape, most)};
    integers(ask(t.stride, object), strides, most);
    const nb::object dtype = ask(t.dtype, object);
    for (const auto& [known, is] : t.dtypes)
        if (dtype.is(known)) facts.dtype = is;
    facts.data = PyLong_AsVoidPtr(ask(t.data_ptr, object).ptr());
    if (!facts.data && PyErr_Occurred()) throw nb::python_error();
    return facts;
}

Facts read(const Torch& t, nb::handle object, int64_t* shape, int64_t* strides, size_t most) {
    nb::dlpack::dltensor found{};
    if (!t.exchange || t.exchange->from_python(object.ptr(), &found) != 0) {
        PyErr_Clear();  // not every device and dtype is known to DLPack
        return read_by_methods(t, object, shape, strides, most);
    }
    const size_t ndim = size_t(found.ndim), count = std::min(ndim, most);
    std::copy_n(found.shape, count, shape);
    std::copy_n(found.strides, count, strides);
    const bool on_cpu = found.device.device_type == nb::device::cpu::value;
    return {on_cpu, static_cast<char*>(found.data) + found.byte_offset, dtype_of(found.dtype), ndim};
}

}  // namespace

TorchTensor::TorchTensor(const char* name, nb::handle object) {
    const Torch& t = torch();
    const nb::handle type = object.type();
    auto refuse = [&](const std::string& got) {
        throw std::invalid_argument(std::string(name) + ": got " + got + ", expected a torch.Tensor on the CPU");
    };
    if (!type.is(t.tensor) && !type.is(t.parameter)) refuse(nb::type_name(type).c_str());
    const Facts facts = read(t, object, shape, strides, MOST_DIMENSIONS);
    if (!facts.on_cpu) refuse("one on another device");
    data = facts.data, dtype = facts.dtype, ndim = facts.ndim;
    if (ndim > MOST_DIMENSIONS) refuse(std::to_string(ndim) + " dimensions");
    length = integer(ask(t.nbytes, ask(t.untyped_storage, object))) / size_of(dtype) - integer(ask(t.storage_offset, object));
}

}  // namespace falloff
